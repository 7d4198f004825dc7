// Gated linear unit's activation: the step between the two products of a gated feed-forward.
//
// Formula (Shazeer: GLU Variants Improve Transformer, 2020), for the halves v, g of the last dimension:
//   output = (v + bias_v) · act(g + bias_g)
// computed in float32 and rounded once. GATED_GELU is the exact x · ½(1 + erf(x / √2)), GATED_SILU is
// x / (1 + exp(-x)).
#ifndef DS_GATED_ACTIVATION_H
#define DS_GATED_ACTIVATION_H

#include "ds_context.h"
#include "ds_gated_activation_params.h"
#include "ds_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

//   activation  [..., 2D]  float32, float16 or bfloat16; rank >= 1; any strides that merge into at
//                          most DS_MAX_ROW_DIMS dimensions of rows; a last dimension of stride 1 is the fast
//                          case; values first, gates second
//   bias        [2D]       contiguous, of activation's dtype and device; NULL: none
//   activation_type        DS_ACTIVATION_GATED_GELU (3) or DS_ACTIVATION_GATED_SILU (4)
//   output      [..., D]   contiguous, of activation's dtype and device; overlaps no input
//
// An empty tensor is a success that writes nothing. On CUDA the work is enqueued on context->stream and the
// call returns at once. DS_E_NULL, _SHAPE, _STRIDE, _DTYPE, _DEVICE, _VALUE for a wrong argument,
// DS_E_UNSUPPORTED for CUDA tensors without a CUDA module, DS_E_CUDA for a failed launch, DS_E_VALUE for an
// unknown DS_DIFFUSERS_CPU_CAPABILITY;
// after a failure the output is untouched, but after DS_E_MEMORY (scratch memory of very long rows on the
// CPU), DS_E_CUDA and DS_E_SERVICE (the thread pool) unspecified.
ds_status ds_gated_activation(const ds_context *context, const ds_tensor *activation, const ds_tensor *bias,
                              int64_t activation_type, const ds_tensor *output);

// The sizes of the result: those of `activation` with the last one halved, written to
// sizes[activation->rank]. DS_E_SHAPE where the rank is 0 or the last size is odd.
ds_status ds_gated_activation_sizes(const ds_tensor *activation, int64_t *sizes);

#ifdef __cplusplus
}
#endif
#endif
