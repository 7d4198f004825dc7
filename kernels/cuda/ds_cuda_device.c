#include "ds_cuda_device.h"
#include <stdatomic.h>
#include <stdint.h>

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

int ds_cuda_is_captured(cudaStream_t stream) {
  enum cudaStreamCaptureStatus capture;
  if (cudaStreamIsCapturing(stream, &capture) == cudaSuccess) return capture != cudaStreamCaptureStatusNone;
  // So answers the default stream while a stream that it would wait for is captured.
  cudaGetLastError();
  return 1;
}

static ds_status ask(int index, ds_cuda_device *device) {
  static const char what[] = "loading the CUDA kernels";
  int major = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  if (error != cudaSuccess) return ds_cuda_error(what, error);
  if (major < OLDEST_MAJOR) return unsupported_device(what, cudaErrorNoKernelImageForDevice);
  device->index = index;
  error = cudaDeviceGetAttribute(&device->multiprocessors, cudaDevAttrMultiProcessorCount, index);
  if (error != cudaSuccess) return ds_cuda_error(what, error);
  const enum cudaStreamCaptureMode previous = ds_cuda_begin_relaxed();
  error = ds_cuda_probe(&device->code);
  ds_cuda_end_relaxed(previous);
  return error == cudaSuccess ? DS_OK : ds_cuda_error(what, error);
}

// What is remembered of a device is one word, so that threads may read and write it at any time; 0: nothing.
enum { CODE_BITS = 2 };

ds_status ds_cuda_current_device(ds_cuda_device *device) {
  static _Atomic uint32_t remembered[DS_CUDA_MAX_DEVICES];
  int index = 0;
  const cudaError_t error = cudaGetDevice(&index);
  if (error != cudaSuccess) return ds_cuda_error("reading the current CUDA device", error);
  const int has_place = index < DS_CUDA_MAX_DEVICES;
  const uint32_t word = has_place ? atomic_load_explicit(&remembered[index], memory_order_relaxed) : 0;
  if (word != 0) {
    *device = (ds_cuda_device){.index = index,
                               .multiprocessors = (int)(word >> CODE_BITS),
                               .code = (ds_cuda_code)(word & ((1u << CODE_BITS) - 1))};
    return DS_OK;
  }
  DS_CHECK(ask(index, device));
  if (has_place)
    atomic_store_explicit(&remembered[index],
                          (uint32_t)device->multiprocessors << CODE_BITS | (uint32_t)device->code,
                          memory_order_relaxed);
  return DS_OK;
}

ds_status ds_cuda_check_device(void) {
  ds_cuda_device device;
  return ds_cuda_current_device(&device);
}
