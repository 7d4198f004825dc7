// A linear layer and the gated activation of its result: the first half of a gated feed-forward.
//
// Formula (Shazeer: GLU Variants Improve Transformer, 2020), for the halves v, g of input · weightᵀ:
//   output = (v + bias_v) · act(g + bias_g)
// GATED_GELU is the exact x · ½(1 + erf(x / √2)), GATED_SILU is x / (1 + exp(-x)). Where the services gate in
// one step, all of it is computed in float32 and rounded once; elsewhere input · weightᵀ is rounded as well.
#ifndef DS_GATED_LINEAR_H
#define DS_GATED_LINEAR_H

#include "ds_context.h"
#include "ds_services.h"
#include "ds_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

//   input    [..., K]  float32, float16 or bfloat16; rank >= 1, K >= 1; rows at one stride with a contiguous
//                      last dimension
//   weight   [2D, K]   of input's dtype and device, a contiguous last dimension; values first, gates second
//   bias     [2D]      contiguous, of input's dtype and device; NULL: none
//   activation_type    DS_ACTIVATION_GATED_GELU (3) or DS_ACTIVATION_GATED_SILU (4)
//   output   [..., D]  contiguous, of input's dtype and device; overlaps no input
//
// Asks services->allocate for scratch once where two steps are needed, else not at all; attention is not
// called. An empty result is a success that writes nothing. On CUDA the work is enqueued on context->stream
// and the call returns at once, but for a service that measures a new kind of product first. DS_E_NULL,
// _SHAPE, _STRIDE, _DTYPE, _DEVICE, _VALUE for a wrong argument, DS_E_UNSUPPORTED for CUDA tensors without a
// CUDA module, DS_E_MEMORY for more scratch than there can be, and whatever a service returns; after a
// failure past the checks the output is unspecified.
ds_status ds_gated_linear(const ds_context *context, const ds_services *services, const ds_tensor *input,
                          const ds_tensor *weight, const ds_tensor *bias, int64_t activation_type,
                          const ds_tensor *output);

// The sizes of the result: those of `input` but for the last, which is half the number of weight's rows,
// written to sizes[input->rank]. Fails as ds_gated_linear for a wrong input or weight.
ds_status ds_gated_linear_sizes(const ds_tensor *input, const ds_tensor *weight, int64_t *sizes);

#ifdef __cplusplus
}
#endif
#endif
