#include "recording_cuda.h"
#include "ds_cuda_device.h"
#include "ds_environment.h"
#include "ds_hash.h"
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The sight at which work is recorded. Recording takes as long as some calls do, which a key that comes twice
// by chance would not make up for; and what the first call of a kind finds out is known by then.
enum { RECORDED_SIGHT = 3 };

// Work that has not been recorded is known by a hash alone: two keys that share one are recorded a little
// sooner.
typedef struct entry {
  uint64_t hash;
  uint64_t last_use; // 0: empty
  int sights;
  int closed; // not to be recorded, or just being recorded
  void *key;  // NULL: not recorded
  size_t key_bytes;
  cudaGraphExec_t graph; // NULL: none yet
} entry;

static entry entries[DS_RECORDING_SETS][DS_RECORDING_WAYS];
static uint64_t uses;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int is_of(const entry *candidate, const ds_cuda_recording *recording) {
  if (candidate->last_use == 0 || candidate->hash != recording->hash) return 0;
  return candidate->key == NULL || (candidate->key_bytes == recording->key_bytes &&
                                    memcmp(candidate->key, recording->key, recording->key_bytes) == 0);
}

static entry *find(const ds_cuda_recording *recording) {
  entry *const set = entries[recording->hash % DS_RECORDING_SETS];
  for (int i = 0; i < DS_RECORDING_WAYS; i++)
    if (is_of(&set[i], recording)) return &set[i];
  return NULL;
}

// The driver lets a graph that is still running finish.
static void drop_graph(entry *of) {
  if (of->graph != NULL) cudaGraphExecDestroy(of->graph);
  of->graph = NULL;
}

// The place of a key that has none yet.
static entry *add(const ds_cuda_recording *recording) {
  entry *const set = entries[recording->hash % DS_RECORDING_SETS], *place = set;
  for (int i = 1; i < DS_RECORDING_WAYS; i++)
    if (set[i].last_use < place->last_use) place = &set[i];
  drop_graph(place);
  free(place->key);
  *place = (entry){.hash = recording->hash};
  return place;
}

// From here on the entry is that of the key itself. 0: there is no memory for it.
static int keep_key(entry *of, const ds_cuda_recording *recording) {
  of->key = malloc(recording->key_bytes);
  if (of->key == NULL) return 0;
  memcpy(of->key, recording->key, recording->key_bytes);
  of->key_bytes = recording->key_bytes;
  return 1;
}

// A graph that cannot be launched is given up, and the work enqueued instead.
static int launch(entry *of, void *stream) {
  if (cudaGraphLaunch(of->graph, (cudaStream_t)stream) == cudaSuccess) return 1;
  cudaGetLastError();
  drop_graph(of);
  of->closed = 1;
  return 0;
}

// What to do with the work at this sight of its key.
static ds_cuda_recording_state see(void *stream, ds_cuda_recording *recording) {
  entry *found = find(recording);
  if (found == NULL) found = add(recording);
  found->last_use = ++uses;
  if (found->graph != NULL && launch(found, stream)) return DS_CUDA_WORK_DONE;
  if (found->closed) return DS_CUDA_WORK_PLAIN;
  recording->watched = 1;
  if (++found->sights < RECORDED_SIGHT) return DS_CUDA_WORK_PLAIN;
  found->closed = 1;
  return keep_key(found, recording) ? DS_CUDA_WORK_RECORDED : DS_CUDA_WORK_PLAIN;
}

static int begin_capture(ds_cuda_recording *recording) {
  cudaStream_t stream = NULL;
  cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
  recording->capture = stream;
  if (error == cudaSuccess) return 1;
  cudaGetLastError();
  if (stream != NULL) cudaStreamDestroy(stream);
  return 0;
}

ds_status ds_recording_begin(const void *key, size_t key_bytes, void **stream, ds_cuda_recording *recording) {
  int wanted;
  *recording = (ds_cuda_recording){.state = DS_CUDA_WORK_PLAIN, .key = key, .key_bytes = key_bytes};
  // At each call, so that a program may switch it.
  DS_CHECK(ds_read_switch(DS_RECORDING_VARIABLE, 0, &wanted));
  if (!wanted || ds_cuda_is_captured((cudaStream_t)*stream)) return DS_OK;
  recording->hash = ds_hash(key, key_bytes);
  // Another thread may be capturing, which would forbid what launching a graph for the first time takes.
  const enum cudaStreamCaptureMode previous = ds_cuda_begin_relaxed();
  pthread_mutex_lock(&mutex);
  recording->state = see(*stream, recording);
  pthread_mutex_unlock(&mutex);
  if (recording->state == DS_CUDA_WORK_RECORDED) {
    recording->stream = *stream;
    if (begin_capture(recording))
      *stream = recording->capture;
    else
      recording->state = DS_CUDA_WORK_PLAIN; // and its key stays closed
  }
  ds_cuda_end_relaxed(previous);
  return DS_OK;
}

// NULL where the work could not be captured.
static cudaGraphExec_t end_capture(const ds_cuda_recording *recording) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t executable = NULL;
  cudaError_t error = cudaStreamEndCapture((cudaStream_t)recording->capture, &graph);
  if (error == cudaSuccess) error = cudaGraphInstantiate(&executable, graph, 0);
  if (error != cudaSuccess) cudaGetLastError();
  if (graph != NULL) cudaGraphDestroy(graph);
  cudaStreamDestroy((cudaStream_t)recording->capture);
  return executable;
}

// Launches what was recorded, and keeps it where its key has not made place for another meanwhile.
static int finish(const ds_cuda_recording *recording, int replayable) {
  entry recorded = {.graph = end_capture(recording)};
  if (!replayable) drop_graph(&recorded);
  if (recorded.graph == NULL) return 0;
  pthread_mutex_lock(&mutex);
  entry *found = find(recording);
  if (found != NULL && found->key != NULL && found->graph == NULL)
    found->graph = recorded.graph;
  else
    found = &recorded;
  const int launched = launch(found, recording->stream);
  if (found == &recorded) drop_graph(found);
  pthread_mutex_unlock(&mutex);
  return launched;
}

static void close_key(const ds_cuda_recording *recording) {
  pthread_mutex_lock(&mutex);
  entry *found = find(recording);
  if (found != NULL) found->closed = 1;
  pthread_mutex_unlock(&mutex);
}

void ds_recording_end(ds_cuda_recording *recording, int replayable, void **stream) {
  if (recording->state == DS_CUDA_WORK_RECORDED) {
    const enum cudaStreamCaptureMode previous = ds_cuda_begin_relaxed();
    *stream = recording->stream;
    recording->state = finish(recording, replayable) ? DS_CUDA_WORK_DONE : DS_CUDA_WORK_PLAIN;
    ds_cuda_end_relaxed(previous);
  } else {
    if (recording->watched && !replayable) close_key(recording);
    recording->state = DS_CUDA_WORK_DONE;
  }
}
