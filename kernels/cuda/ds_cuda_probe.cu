#include "ds_cuda_device.h"

// The bound on its threads, which the runtime reports, tells one code from another: it is part of the code
// that was loaded, unlike the device's compute capability, for which older code may serve too.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#  define PROBE_THREADS (32 * DS_CUDA_CODE_90A)
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#  define PROBE_THREADS (32 * DS_CUDA_CODE_90)
#else
#  define PROBE_THREADS (32 * DS_CUDA_CODE_BASE)
#endif

static __global__ void __launch_bounds__(PROBE_THREADS) probe_kernel() {}

cudaError_t ds_cuda_probe(ds_cuda_code *code) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (error == cudaSuccess) *code = static_cast<ds_cuda_code>(attributes.maxThreadsPerBlock / 32);
  return error;
}
