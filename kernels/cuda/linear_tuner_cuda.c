#include "linear_tuner_cuda.h"
#include "ds_cuda_device.h"
#include "ds_environment.h"
#include <pthread.h>

ds_status ds_linear_tuning_wanted(int *wanted) {
  return ds_read_switch(DS_LINEAR_TUNING_VARIABLE, 1, wanted);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static cudaError_t create_pool(int device, cudaMemPool_t *pool) {
  int supported = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device);
  if (error != cudaSuccess) return error;
  if (!supported) return cudaErrorNotSupported;
  const struct cudaMemPoolProps properties = {.allocType = cudaMemAllocationTypePinned,
                                              .handleTypes = cudaMemHandleTypeNone,
                                              .location = {.type = cudaMemLocationTypeDevice, .id = device}};
  return cudaMemPoolCreate(pool, &properties);
}

static cudaError_t create_stream(cudaStream_t *stream) {
  int lowest = 0, highest = 0;
  const cudaError_t error = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
  return error != cudaSuccess ? error : cudaStreamCreateWithPriority(stream, cudaStreamNonBlocking, highest);
}

static void destroy(ds_linear_tuner *tuner) {
  for (int i = 0; i < DS_LINEAR_TUNER_EVENTS; i++)
    if (tuner->events[i] != NULL) cudaEventDestroy(tuner->events[i]);
  if (tuner->stream != NULL) cudaStreamDestroy(tuner->stream);
  if (tuner->pool != NULL) cudaMemPoolDestroy(tuner->pool);
  *tuner = (ds_linear_tuner){0};
}

static int create(int device, ds_linear_tuner *tuner) {
  int l2_bytes = 0;
  cudaError_t error = cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device);
  tuner->l2_bytes = (size_t)l2_bytes;
  if (error == cudaSuccess) error = create_pool(device, &tuner->pool);
  if (error == cudaSuccess) error = create_stream(&tuner->stream);
  for (int i = 0; i < DS_LINEAR_TUNER_EVENTS && error == cudaSuccess; i++)
    error = cudaEventCreate(&tuner->events[i]);
  if (error == cudaSuccess) return 1;
  destroy(tuner);
  cudaGetLastError();
  return 0;
}

// Kept for as long as the process runs, as the library's handles are.
void ds_linear_tuner_take(int device, const ds_linear_tuner **tuner) {
  static ds_linear_tuner tuners[DS_CUDA_MAX_DEVICES];
  pthread_mutex_lock(&mutex);
  *tuner = NULL;
  if (device < 0 || device >= DS_CUDA_MAX_DEVICES) return;
  if (tuners[device].stream != NULL || create(device, &tuners[device])) *tuner = &tuners[device];
}

void ds_linear_tuner_give(void) {
  pthread_mutex_unlock(&mutex);
}

int ds_linear_tuner_is_captured(cudaStream_t stream) {
  return ds_cuda_is_captured(stream);
}

int ds_linear_tuner_mark(const ds_linear_tuner *tuner, int event) {
  return cudaEventRecord(tuner->events[event], tuner->stream) == cudaSuccess;
}

int ds_linear_tuner_read(const ds_linear_tuner *tuner, int intervals, float *microseconds) {
  cudaError_t error = cudaEventSynchronize(tuner->events[intervals]);
  for (int i = 0; i < intervals && error == cudaSuccess; i++) {
    error = cudaEventElapsedTime(&microseconds[i], tuner->events[i], tuner->events[i + 1]);
    microseconds[i] *= 1000.0f;
  }
  return error == cudaSuccess;
}

size_t ds_linear_tuner_budget(void) {
  size_t free_bytes = 0, total_bytes = 0;
  if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return free_bytes / 4 < DS_LINEAR_TUNER_MOST_BYTES ? free_bytes / 4 : DS_LINEAR_TUNER_MOST_BYTES;
}

void *ds_linear_tuner_allocate(const ds_linear_tuner *tuner, size_t bytes) {
  void *memory = NULL;
  if (cudaMallocFromPoolAsync(&memory, bytes, tuner->pool, tuner->stream) == cudaSuccess) return memory;
  cudaGetLastError();
  return NULL;
}

void ds_linear_tuner_free(const ds_linear_tuner *tuner, void *memory) {
  cudaFreeAsync(memory, tuner->stream);
  cudaStreamSynchronize(tuner->stream);
  cudaMemPoolTrimTo(tuner->pool, 0);
  cudaGetLastError(); // whatever went wrong, the caller's own calls will meet and report
}
