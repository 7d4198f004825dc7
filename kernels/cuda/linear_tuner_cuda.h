// What measuring products on the side takes: a stream, a memory pool and events of its own on each device.
#ifndef DS_LINEAR_TUNER_CUDA_H
#define DS_LINEAR_TUNER_CUDA_H

#include "ds_dtype.h"
#include "ds_status.h"
#include <cuda_runtime_api.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DS_LINEAR_TUNING_VARIABLE "DS_DIFFUSERS_LINEAR_TUNING"

// What DS_LINEAR_TUNING_VARIABLE says: "0" 0; "1", empty or unset 1; DS_E_VALUE for anything else.
ds_status ds_linear_tuning_wanted(int *wanted);

// Events of a tuner. Between two of them lies one measurement.
#define DS_LINEAR_TUNER_EVENTS 17

typedef struct ds_linear_tuner {
  // Waits for no other stream, and its blocks go first where another stream keeps the device busy.
  cudaStream_t stream;
  cudaMemPool_t pool; // gives freed memory back to the driver when the stream is waited for
  cudaEvent_t events[DS_LINEAR_TUNER_EVENTS];
  size_t l2_bytes;
} ds_linear_tuner;

// Takes the tuner of a device, which must be the current one, for this thread alone: one thread tunes at a
// time. *tuner is NULL where the device has no stream-ordered memory, or lacks the memory for a stream.
// ds_linear_tuner_give must follow in any case.
void ds_linear_tuner_take(int device, const ds_linear_tuner **tuner);
void ds_linear_tuner_give(void);

// Whether `stream` is captured in a graph, so that work on it can be enqueued, but not measured.
int ds_linear_tuner_is_captured(cudaStream_t stream);

// Marks a place in the tuner's stream. Events are marked from 0 on. 0: a failure.
int ds_linear_tuner_mark(const ds_linear_tuner *tuner, int event);

// Waits until the stream has come to event `intervals`, and gives the time between each two events up to it.
// 0: a failure.
int ds_linear_tuner_read(const ds_linear_tuner *tuner, int intervals, float *microseconds);

// Memory from the tuner's pool, in the order of its stream; no more than a quarter of what the driver has
// free, and no more than DS_LINEAR_TUNER_MOST_BYTES. NULL where that does not do.
#define DS_LINEAR_TUNER_MOST_BYTES ((size_t)1 << 30)
size_t ds_linear_tuner_budget(void);
void *ds_linear_tuner_allocate(const ds_linear_tuner *tuner, size_t bytes);

// Waits for the tuner's stream alone and gives the memory back to the driver.
void ds_linear_tuner_free(const ds_linear_tuner *tuner, void *memory);

// Fills memory with numbers of `dtype` (one that products compute with) between 1/8 and 1/2, of either sign,
// with random fractions: the time of a product depends on how many bits change. `bytes` is a multiple of 16.
ds_status ds_linear_tuner_fill(void *memory, size_t bytes, ds_dtype dtype, cudaStream_t stream);

// Holds the stream up, so that what follows is enqueued before it begins.
ds_status ds_linear_tuner_hold(unsigned microseconds, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
