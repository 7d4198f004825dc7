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

// Releases *guard unless it is NULL, and sets it to NULL.
void ds_torch_cuda_leave(CUDAGuardHandle *guard);

#endif
