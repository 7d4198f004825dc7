// The interface of libds_diffusers_cuda.so: one exported function that returns a table of launchers. The
// module knows no torch: pointers, sizes, a stream, a workspace.
#ifndef DS_CUDA_MODULE_H
#define DS_CUDA_MODULE_H

#include "../ds_kernels.h"
#include "../ds_linear_params.h"
#include "../ds_status.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Changed whenever a parameter struct or a field's meaning changes; a kernel that is added shows in
// struct_bytes. A main library takes only a module built from the same interface.
#define DS_CUDA_MODULE_VERSION 6u

#define DS_CUDA_MODULE_FILE "libds_diffusers_cuda.so"
#define DS_CUDA_MODULE_SYMBOL "ds_diffusers_cuda_module"

// How work that has a key is to be enqueued.
typedef enum ds_cuda_recording_state {
  DS_CUDA_WORK_DONE,    // it is: launched as it was recorded once
  DS_CUDA_WORK_PLAIN,   // on the caller's stream
  DS_CUDA_WORK_RECORDED // on a stream of the module's own, which is being captured
} ds_cuda_recording_state;

// From recording_begin to recording_end; callers read only the state.
typedef struct ds_cuda_recording {
  ds_cuda_recording_state state;
  int watched; // the end tells whether work of this key may be recorded
  const void *key;
  size_t key_bytes;
  uint64_t hash; // of the key
  void *stream;  // the caller's
  void *capture; // the stream that is being captured
} ds_cuda_recording;

// Launches on `stream` (a cudaStream_t) of the current device, asynchronously, and returns at once, but for
// the first `linear` of a kind: no synchronisation, no allocation, safe under CUDA-graph capture. All
// pointers are device memory of the current device. Some calls launch several kernels: after DS_E_CUDA a part
// of them may have been launched, and the outputs are unspecified; after any other failure they are
// untouched.
typedef struct ds_cuda_module {
  uint32_t version;                   // DS_CUDA_MODULE_VERSION
  uint32_t struct_bytes;              // sizeof(ds_cuda_module)
  const char *architectures;          // what the module was compiled for, e.g. "80 86 89 90a": for messages
  const char *(*error_message)(void); // of the last failure in the calling thread, in this module
  // DS_OK if the current device can run the module's kernels, else DS_E_UNSUPPORTED with a message.
  ds_status (*check_device)(void);

#define DS_CUDA_KERNEL_FIELD(name) ds_status (*name)(const ds_##name##_params *params, void *stream);
  DS_KERNELS(DS_CUDA_KERNEL_FIELD)
  // Whether there is a special kernel for these parameters on the current device, and the kernel, which may
  // be called only then.
#define DS_CUDA_SPECIAL_KERNEL_FIELD(name)                                                                   \
  int (*name##_serves)(const ds_##name##_params *params);                                                    \
  DS_CUDA_KERNEL_FIELD(name)
  DS_CUDA_SPECIAL_KERNELS(DS_CUDA_SPECIAL_KERNEL_FIELD)
#undef DS_CUDA_SPECIAL_KERNEL_FIELD
#undef DS_CUDA_KERNEL_FIELD

  // cuBLASLt. A workspace, device memory that later work on the same stream may use again, lets it sum in
  // parts where there are few rows; more than linear_workspace_bytes is of no use. DS_E_UNSUPPORTED with a
  // message where no cuBLASLt is found. The first product of each kind (sizes, strides, dtype, device) takes
  // some milliseconds, in which cuBLASLt's algorithms are timed on a stream and in memory of the module's
  // own; not while `stream` is captured, nor where the environment says DS_DIFFUSERS_LINEAR_TUNING=0.
  size_t linear_workspace_bytes;
  ds_status (*linear)(const ds_linear_params *params, void *stream);

  // Around work that may come again. The key is all that decides what the work enqueues, the device too; a
  // multiple of eight bytes. begin says how to enqueue it, and on which stream (*stream); nothing, and no
  // end, follows where it is done. `replayable`, at the end: the work succeeded, and went to *stream alone.
  // After the end *stream is the caller's again, and the work must be enqueued there where the state is
  // DS_CUDA_WORK_PLAIN: it could not be recorded. Work is recorded only where the environment says
  // DS_DIFFUSERS_RECORDING=1; DS_E_VALUE where it says anything else than that or 0.
  ds_status (*recording_begin)(const void *key, size_t key_bytes, void **stream,
                               ds_cuda_recording *recording);
  void (*recording_end)(ds_cuda_recording *recording, int replayable, void **stream);
} ds_cuda_module;

typedef const ds_cuda_module *(*ds_cuda_module_fn)(void);

#ifdef __cplusplus
}
#endif
#endif
