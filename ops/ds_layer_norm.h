// Layer normalisation over the last dimension, alone and fused with the residual sum in front of it.
//
// Formula (Ba, Kiros, Hinton: Layer Normalization, 2016; torch.nn.functional.layer_norm):
//   y = (x - mean) · rsqrt(variance + epsilon) · gamma + beta
// over the last dimension, with the biased variance, computed two-pass in float32 and rounded once.
#ifndef DS_LAYER_NORM_H
#define DS_LAYER_NORM_H

#include "ds_context.h"
#include "ds_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

// output = layer_norm(input).
//
//   input   [..., C]  float32, float16 or bfloat16; rank >= 1, C >= 1; any strides that merge into at
//                     most DS_MAX_ROW_DIMS dimensions of rows; a last dimension of stride 1 is the fast case
//   gamma   [C]       contiguous, of input's dtype and device; NULL: ones
//   beta    [C]       likewise; NULL: zeros
//   epsilon           finite, >= 0
//   output  [..., C]  contiguous, of input's sizes, dtype and device; overlaps no input
//
// An empty input (no rows) is a success that writes nothing. On CUDA the work is enqueued on context->stream
// and the call returns at once. DS_E_NULL, _SHAPE, _STRIDE, _DTYPE, _DEVICE, _VALUE for a wrong argument,
// DS_E_UNSUPPORTED for CUDA tensors without a CUDA module, DS_E_CUDA for a failed launch, DS_E_VALUE for an
// unknown DS_DIFFUSERS_CPU_CAPABILITY;
// after a failure the output is untouched, but after DS_E_MEMORY (scratch memory of very long rows on the
// CPU), DS_E_CUDA and DS_E_SERVICE (the thread pool) unspecified.
ds_status ds_layer_norm(const ds_context *context, const ds_tensor *input, const ds_tensor *gamma,
                        const ds_tensor *beta, double epsilon, const ds_tensor *output);

// sum = input + bias + residual; output = layer_norm(sum), of the unrounded float32 sum.
//
//   input     [..., C]  as above
//   bias      [C]       contiguous; NULL: none
//   residual  [..., C]  of input's sizes, dtype and device; any strides
//   gamma, beta, epsilon, output  as above
//   sum       [..., C]  contiguous, as output; the sum rounded once; overlaps neither an input nor output
//
// Empty tensors, streams and statuses as above.
ds_status ds_layer_norm_residual_store_pre_ln_res(const ds_context *context, const ds_tensor *input,
                                                  const ds_tensor *bias, const ds_tensor *residual,
                                                  const ds_tensor *gamma, const ds_tensor *beta,
                                                  double epsilon, const ds_tensor *output,
                                                  const ds_tensor *sum);

#ifdef __cplusplus
}
#endif
#endif
