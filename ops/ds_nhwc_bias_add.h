// Bias and residual sums of channels-last activations.
//
// Formulas, computed in float32 and rounded once (DeepSpeed's nhwc_bias_add; torch: a + b[channel] (+ …)):
//   activation + bias
//   activation + bias + other
//   (activation + bias) + (other + other_bias)
#ifndef DS_NHWC_BIAS_ADD_H
#define DS_NHWC_BIAS_ADD_H

#include "ds_context.h"
#include "ds_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

//   activation  [B, S, C] or [N, C, H, W]  float32, float16 or bfloat16; any strides: [B, S, C] with a last
//                          dimension of stride 1 and channels-last [N, C, H, W] are the fast cases
//   bias        [C]        contiguous, of activation's dtype and device
//   other       as activation, any strides; NULL: none
//   other_bias  [C]        contiguous; NULL: none; only with other
//   output      as activation, any strides without overlap; overlaps no input
//
// An empty tensor is a success that writes nothing. On CUDA the work is enqueued on context->stream and the
// call returns at once. DS_E_NULL, _SHAPE, _STRIDE, _DTYPE, _DEVICE, _VALUE for a wrong argument,
// DS_E_UNSUPPORTED for CUDA tensors without a CUDA module, DS_E_CUDA for a failed launch, DS_E_VALUE for an
// unknown DS_DIFFUSERS_CPU_CAPABILITY;
// after a failure the output is untouched, but after DS_E_MEMORY (scratch memory of very long rows on the
// CPU), DS_E_CUDA and DS_E_SERVICE (the thread pool) unspecified.
ds_status ds_nhwc_bias_add(const ds_context *context, const ds_tensor *activation, const ds_tensor *bias,
                           const ds_tensor *other, const ds_tensor *other_bias, const ds_tensor *output);

#ifdef __cplusplus
}
#endif
#endif
