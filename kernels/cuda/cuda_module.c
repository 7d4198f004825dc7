#include "ds_cuda_device.h"
#include "ds_kernels_cuda.h"
#include "recording_cuda.h"

static const ds_cuda_module module = {
    .version = DS_CUDA_MODULE_VERSION,
    .struct_bytes = sizeof(ds_cuda_module),
    .architectures = ds_cuda_architectures,
    .error_message = ds_error_message,
    .check_device = ds_cuda_check_device,
#define DS_SET_LAUNCHER(name) .name = ds_##name##_cuda,
#define DS_SET_SPECIAL_LAUNCHER(name) .name##_serves = ds_##name##_serves_cuda, DS_SET_LAUNCHER(name)
    DS_KERNELS(DS_SET_LAUNCHER) DS_CUDA_SPECIAL_KERNELS(DS_SET_SPECIAL_LAUNCHER)
#undef DS_SET_SPECIAL_LAUNCHER
#undef DS_SET_LAUNCHER
        .linear_workspace_bytes = DS_LINEAR_WORKSPACE_BYTES,
    .linear = ds_linear_cuda,
    .recording_begin = ds_recording_begin,
    .recording_end = ds_recording_end,
};

const ds_cuda_module *ds_diffusers_cuda_module(void);

__attribute__((visibility("default"))) const ds_cuda_module *ds_diffusers_cuda_module(void) {
  return &module;
}
