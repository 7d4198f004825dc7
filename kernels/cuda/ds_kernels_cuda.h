// Entry points of the CUDA module, behind its table of launchers: ds_cuda_module.h is their contract.
#ifndef DS_KERNELS_CUDA_H
#define DS_KERNELS_CUDA_H

#include "ds_cuda_module.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DS_DECLARE_LAUNCHER(name) ds_status ds_##name##_cuda(const ds_##name##_params *params, void *stream);
DS_KERNELS(DS_DECLARE_LAUNCHER)
#define DS_DECLARE_SPECIAL_LAUNCHER(name)                                                                    \
  int ds_##name##_serves_cuda(const ds_##name##_params *params);                                             \
  DS_DECLARE_LAUNCHER(name)
DS_CUDA_SPECIAL_KERNELS(DS_DECLARE_SPECIAL_LAUNCHER)
#undef DS_DECLARE_SPECIAL_LAUNCHER
#undef DS_DECLARE_LAUNCHER

// What NVIDIA recommends for cuBLAS on Hopper (elsewhere it recommends less): split-k products of few rows
// and many features, as small images make, keep their partial sums there.
#define DS_LINEAR_WORKSPACE_BYTES ((size_t)32 << 20)

ds_status ds_linear_cuda(const ds_linear_params *params, void *stream);

#ifdef __cplusplus
}
#endif
#endif
