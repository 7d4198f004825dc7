// What an operator may use from its surroundings besides its arguments.
#ifndef DS_CONTEXT_H
#define DS_CONTEXT_H

#include "cuda/ds_cuda_module.h"
#include "ds_parallel.h"

typedef struct ds_context {
  ds_parallel_for_fn parallel_for; // threads for CPU tensors; NULL: the calling thread alone
  const ds_cuda_module *cuda;      // for CUDA tensors, from ds_cuda_module_open; NULL: CPU tensors only
  void *stream;                    // the cudaStream_t that CUDA work goes to, of the current device
} ds_context;

#endif
