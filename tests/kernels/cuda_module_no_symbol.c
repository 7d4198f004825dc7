// A library of the CUDA module's name that is something else.
#include "cuda/ds_cuda_module.h"

__attribute__((visibility("default"))) const ds_cuda_module *something_else(void);

const ds_cuda_module *something_else(void) {
  return NULL;
}
