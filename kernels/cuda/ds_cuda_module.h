// The interface of libds_diffusers_cuda.so: one exported function that returns a table of launchers. The
// module knows no torch: pointers, sizes, a stream, a workspace.
#ifndef DS_CUDA_MODULE_H
#define DS_CUDA_MODULE_H

#include "../ds_attention_params.h"
#include "../ds_bias_add_params.h"
#include "../ds_gated_activation_params.h"
#include "../ds_layer_norm_params.h"
#include "../ds_linear_params.h"
#include "../ds_status.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Changed whenever this struct or a parameter struct changes: a main library takes only a module built from
// the same interface.
#define DS_CUDA_MODULE_VERSION 2u

#define DS_CUDA_MODULE_FILE "libds_diffusers_cuda.so"
#define DS_CUDA_MODULE_SYMBOL "ds_diffusers_cuda_module"

// Kernels that need nothing but their parameters. A new operator adds its line here.
#define DS_CUDA_KERNELS(X)                                                                                   \
  X(layer_norm)                                                                                              \
  X(gated_activation)                                                                                        \
  X(bias_add)

// Launches on `stream` (a cudaStream_t) of the current device, asynchronously, and returns at once: no
// synchronisation, no allocation, safe under CUDA-graph capture. All pointers are device memory of the
// current device. After a failure nothing was launched and the outputs are untouched.
typedef struct ds_cuda_module {
  uint32_t version;                   // DS_CUDA_MODULE_VERSION
  uint32_t struct_bytes;              // sizeof(ds_cuda_module)
  const char *architectures;          // what the module was compiled for, e.g. "80 86 89 90a": for messages
  const char *(*error_message)(void); // of the last failure in the calling thread, in this module
  // DS_OK if the current device can run the module's kernels, else DS_E_UNSUPPORTED with a message.
  ds_status (*check_device)(void);
#define DS_CUDA_KERNEL_FIELD(name) ds_status (*name)(const ds_##name##_params *params, void *stream);
  DS_CUDA_KERNELS(DS_CUDA_KERNEL_FIELD)
#undef DS_CUDA_KERNEL_FIELD
  // cuBLASLt. `workspace` is device memory of at least linear_workspace_bytes, aligned to 256 bytes, free
  // for reuse by later work on the same stream. DS_E_UNSUPPORTED with a message where no cuBLASLt is found.
  size_t linear_workspace_bytes;
  ds_status (*linear)(const ds_linear_params *params, void *workspace, void *stream);

  // Attention of the module's own. attention_serves tells whether there is a kernel for these parameters on
  // the current device and it is faster than PyTorch's; only then may attention be called.
  int (*attention_serves)(const ds_attention_params *params);
  ds_status (*attention)(const ds_attention_params *params, void *stream);
} ds_cuda_module;

typedef const ds_cuda_module *(*ds_cuda_module_fn)(void);

#ifdef __cplusplus
}
#endif
#endif
