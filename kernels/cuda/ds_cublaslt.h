// cuBLASLt without linking to it: the one that the process has already loaded (PyTorch brings its own), found
// by its soname, so that one binary serves CUDA 12 and 13. Only types, enumerators and functions are used
// that both have alike.
#ifndef DS_CUBLASLT_H
#define DS_CUBLASLT_H

#include "ds_status.h"
#include <cublasLt.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DS_CUBLASLT_FUNCTIONS(X)                                                                             \
  X(cublasLtCreate)                                                                                          \
  X(cublasLtGetStatusString)                                                                                 \
  X(cublasLtMatmul)                                                                                          \
  X(cublasLtMatmulAlgoGetHeuristic)                                                                          \
  X(cublasLtMatmulDescCreate)                                                                                \
  X(cublasLtMatmulDescDestroy)                                                                               \
  X(cublasLtMatmulDescSetAttribute)                                                                          \
  X(cublasLtMatmulPreferenceCreate)                                                                          \
  X(cublasLtMatmulPreferenceDestroy)                                                                         \
  X(cublasLtMatmulPreferenceSetAttribute)                                                                    \
  X(cublasLtMatrixLayoutCreate)                                                                              \
  X(cublasLtMatrixLayoutDestroy)

// Fields are named as the functions.
typedef struct ds_cublaslt {
#define DS_CUBLASLT_FIELD(name) __typeof__(name) *name;
  DS_CUBLASLT_FUNCTIONS(DS_CUBLASLT_FIELD)
#undef DS_CUBLASLT_FIELD
} ds_cublaslt;

// The library, opened at the first call and never closed. DS_E_UNSUPPORTED with a message that says what to
// install where there is none; a later call tries again. Any number of threads may call it.
ds_status ds_cublaslt_open(const ds_cublaslt **library);

// The library's handle for a device, which must be the current one; created at the first call and never
// destroyed, as the driver may be gone by the time that a process unloads its libraries.
ds_status ds_cublaslt_handle(const ds_cublaslt *library, int device, cublasLtHandle_t *handle);

// DS_E_CUDA with a message: "<what> failed: <the library's words>".
ds_status ds_cublaslt_error(const ds_cublaslt *library, const char *what, cublasStatus_t status);

#ifdef __cplusplus
}
#endif
#endif
