// The current device: whether it can run the module's kernels, and what its errors mean.
#ifndef DS_CUDA_DEVICE_H
#define DS_CUDA_DEVICE_H

#include "ds_status.h"
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

// Devices that the module keeps state for. PyTorch's own limit is far below.
#define DS_CUDA_MAX_DEVICES 128

// What the module was compiled for, e.g. "80 86 89 90a 90+PTX".
extern const char ds_cuda_architectures[];

// The code that the driver has chosen from this module for a device.
typedef enum ds_cuda_code {
  DS_CUDA_CODE_BASE = 1, // instructions of compute capability 8.0
  DS_CUDA_CODE_90,       // those of compute capability 9.0 as well
  DS_CUDA_CODE_90A       // and those that only compute capability 9.0 itself has
} ds_cuda_code;

// What launchers need to know about a device.
typedef struct ds_cuda_device {
  int index;
  int multiprocessors;
  ds_cuda_code code;
} ds_cuda_device;

// The current device. Asks the runtime only the first time; fails like ds_cuda_check_device.
ds_status ds_cuda_current_device(ds_cuda_device *device);

// DS_OK if the current device can run the module's kernels, else DS_E_UNSUPPORTED with a message.
ds_status ds_cuda_check_device(void);

// Turns a failed CUDA call into a status and a message: DS_E_UNSUPPORTED where the module holds no code for
// the device, else DS_E_CUDA. `what` says what failed, e.g. "the launch of layer_norm". Clears the runtime's
// record of the error, so that no later call reports it again.
ds_status ds_cuda_error(const char *what, cudaError_t error);

// cudaSuccess, and which code it is, if the driver finds or makes code for the current device in this module.
cudaError_t ds_cuda_probe(ds_cuda_code *code);

// Under CUDA-graph capture the runtime forbids calls that might allocate or synchronise, such as loading code
// and creating library handles. They touch no stream, so they are harmless there: between these two calls the
// thread may make them.
enum cudaStreamCaptureMode ds_cuda_begin_relaxed(void);
void ds_cuda_end_relaxed(enum cudaStreamCaptureMode previous);

// Whether `stream` is captured in a graph, so that work on it can be enqueued, but not waited for.
int ds_cuda_is_captured(cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
