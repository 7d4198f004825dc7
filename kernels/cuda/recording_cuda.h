// What comes again and again is launched as one CUDA graph: a block's dozen launches take the CPU longer than
// a small block takes the GPU, one launch of their graph a fraction of it.
//
// Work is known by its key, all that decides what it launches. At the third sight of a key the work is
// captured on a stream of its own and kept as a graph; from then on the graph is launched in its place. A
// denoising loop's allocations fall into the same places at each step, so that keys do come again. A graph
// takes about 150 KB of device memory for its nodes, is kept until its place is needed, and is only launched
// for a call that owns all that it names.
//
// While work is captured, which takes some hundred microseconds, CUDA forbids other threads to synchronise
// the device (a stream or an event they may). So nothing is recorded unless the program's owner asks for it.
#ifndef DS_RECORDING_CUDA_H
#define DS_RECORDING_CUDA_H

#include "ds_cuda_module.h"

#ifdef __cplusplus
extern "C" {
#endif

// "1": work is recorded; "0", empty or unset: it is not.
#define DS_RECORDING_VARIABLE "DS_DIFFUSERS_RECORDING"

// Keys that are kept, in sets of so many, of which the least recently used one makes place for a new one.
#define DS_RECORDING_SETS 64
#define DS_RECORDING_WAYS 8

// As ds_cuda_module.h says.
ds_status ds_recording_begin(const void *key, size_t key_bytes, void **stream, ds_cuda_recording *recording);
void ds_recording_end(ds_cuda_recording *recording, int replayable, void **stream);

#ifdef __cplusplus
}
#endif
#endif
