#include "ds_cuda_device.h"

static __global__ void probe_kernel() {}

cudaError_t ds_cuda_probe(void) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, probe_kernel);
}
