// The product where cuBLASLt has no way to compute it.
#ifndef DS_LINEAR_DIRECT_CUDA_H
#define DS_LINEAR_DIRECT_CUDA_H

#include "ds_linear_params.h"
#include "ds_status.h"

#ifdef __cplusplus
extern "C" {
#endif

// As ds_linear_cuda, for any sizes and row strides, without cuBLASLt and much slower.
ds_status ds_linear_direct_cuda(const ds_linear_params *params, void *stream);

#ifdef __cplusplus
}
#endif
#endif
