// LibTorch's stable C ABI, declared for C. torch's own headers are C++; a test compares these types with
// them.
//
// An error code of 0 is success. Handles returned through an argument are owned by the caller.
// aoti_torch_check throws a C++ exception through its C callers when its condition is false: release
// everything first, call it last.
#ifndef DS_TORCH_SHIM_H
#define DS_TORCH_SHIM_H

#include "ds_torch_shim_list.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t AOTITorchError;
typedef uint64_t StableIValue;
typedef struct AtenTensorOpaque *AtenTensorHandle;
typedef struct TorchLibraryOpaque *TorchLibraryHandle;
typedef struct CUDAGuardOpaque *CUDAGuardHandle;

// aoti_torch_abi_version() of release 2.10, the oldest that the plugin runs in and the one whose conventions
// it follows (bytes: major, minor, patch, then zeros).
#define DS_TORCH_2_10 ((uint64_t)2 << 56 | (uint64_t)10 << 48)

#define DS_WEAK_SINCE_208
#define DS_WEAK_SINCE_210 __attribute__((weak))
#define DS_DECLARE_SHIM(since, return_type, name, arguments) DS_WEAK_SINCE_##since return_type name arguments;
DS_TORCH_SHIM(DS_DECLARE_SHIM)
#undef DS_DECLARE_SHIM

// Functions of releases after 2.10, each NULL where this torch lacks it.
typedef struct ds_torch_recent_shim {
#define DS_SHIM_FIELD(since, return_type, name, arguments) return_type(*name) arguments;
  DS_TORCH_RECENT_SHIM(DS_SHIM_FIELD)
#undef DS_SHIM_FIELD
} ds_torch_recent_shim;

// Filled by ds_torch_find_recent when the library is loaded, constant from then on.
extern ds_torch_recent_shim ds_torch_recent;
void ds_torch_find_recent(void);

#ifdef __cplusplus
}
#endif
#endif
