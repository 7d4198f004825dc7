// A CUDA module of an interface that does not exist.
#include "cuda/ds_cuda_module.h"

__attribute__((visibility("default"))) const ds_cuda_module *ds_diffusers_cuda_module(void);

const ds_cuda_module *ds_diffusers_cuda_module(void) {
  static const ds_cuda_module module = {.version = DS_CUDA_MODULE_VERSION + 1, .struct_bytes = 24};
  return &module;
}
