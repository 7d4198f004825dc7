// CUDA's part of the stable ABI, and the CUDA module: both found at the first CUDA call, so that the plugin
// loads where there is no CUDA.
#ifndef DS_TORCH_CUDA_H
#define DS_TORCH_CUDA_H

#include "cuda/ds_cuda_module.h"
#include "ds_torch_shim.h"

// Makes `device_index` the current device until the guard is released, and gives its current stream and the
// module, after checking that the module runs on the device. DS_E_UNSUPPORTED with a message that says what
// to do where torch has no CUDA or the module is missing or unsuitable. On failure *guard is NULL.
ds_status ds_torch_cuda_enter(int32_t device_index, CUDAGuardHandle *guard, void **stream,
                              const ds_cuda_module **module);

// Whether torch's settings (torch.backends.cuda.matmul.allow_tf32, torch.set_float32_matmul_precision) let
// products of float32 round their operands to TF32. For the current device, within enter and leave. Costs
// about as much as a launch; torch takes memory for its cuBLAS handle, as for a product of its own.
ds_status ds_torch_cuda_allows_tf32(int *allowed);

// Releases *guard unless it is NULL, and sets it to NULL.
void ds_torch_cuda_leave(CUDAGuardHandle *guard);

#endif
