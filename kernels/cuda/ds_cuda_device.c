#include "ds_cuda_device.h"
#include <stdatomic.h>

const char ds_cuda_architectures[] = DS_CUDA_ARCHITECTURES_TEXT;

// The oldest with bfloat16 arithmetic.
enum { OLDEST_MAJOR = 8 };

static ds_status unsupported_device(const char *what, cudaError_t error) {
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (major < OLDEST_MAJOR)
    return ds_error(DS_E_UNSUPPORTED,
                    "%s: CUDA device %d has compute capability %d.%d, must be %d.0 or newer", what, device,
                    major, minor, OLDEST_MAJOR);
  return ds_error(DS_E_UNSUPPORTED,
                  "%s: CUDA device %d has compute capability %d.%d, must be one that this build of "
                  "ds_diffusers has code for: %s (%s); build it with DS_CUDA_ARCHITECTURES=%d%d, or update "
                  "the driver",
                  what, device, major, minor, ds_cuda_architectures, cudaGetErrorName(error), major, minor);
}

ds_status ds_cuda_error(const char *what, cudaError_t error) {
  cudaGetLastError();
  switch (error) {
  case cudaErrorNoKernelImageForDevice:
  case cudaErrorInvalidDeviceFunction:
  case cudaErrorUnsupportedPtxVersion:
  case cudaErrorJitCompilerNotFound:
  case cudaErrorJitCompilationDisabled:
    return unsupported_device(what, error);
  case cudaErrorInsufficientDriver:
    return ds_error(DS_E_UNSUPPORTED,
                    "%s: the NVIDIA driver is older than this build of ds_diffusers needs (CUDA %d.%d); "
                    "update the driver, or build ds_diffusers with an older CUDA toolkit",
                    what, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  default:
    return ds_error(DS_E_CUDA, "%s failed: %s (%s)", what, cudaGetErrorString(error),
                    cudaGetErrorName(error));
  }
}

enum cudaStreamCaptureMode ds_cuda_begin_relaxed(void) {
  enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  return mode;
}

void ds_cuda_end_relaxed(enum cudaStreamCaptureMode previous) {
  cudaThreadExchangeStreamCaptureMode(&previous);
}

static ds_status probe(int device) {
  static const char what[] = "loading the CUDA kernels";
  int major = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return ds_cuda_error(what, error);
  if (major < OLDEST_MAJOR) return unsupported_device(what, cudaErrorNoKernelImageForDevice);
  const enum cudaStreamCaptureMode previous = ds_cuda_begin_relaxed();
  const cudaError_t found = ds_cuda_probe();
  ds_cuda_end_relaxed(previous);
  return found == cudaSuccess ? DS_OK : ds_cuda_error(what, found);
}

ds_status ds_cuda_check_device(void) {
  static _Atomic unsigned char usable[DS_CUDA_MAX_DEVICES];
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return ds_cuda_error("reading the current CUDA device", error);
  const int remembered = device < DS_CUDA_MAX_DEVICES;
  if (remembered && atomic_load_explicit(&usable[device], memory_order_relaxed)) return DS_OK;
  DS_CHECK(probe(device));
  if (remembered) atomic_store_explicit(&usable[device], 1, memory_order_relaxed);
  return DS_OK;
}
