#include "ds_cublaslt.h"
#include "ds_cuda_device.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

static const char *const sonames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
enum { SONAMES = sizeof sonames / sizeof *sonames };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

// A library that is loaded already comes first, whatever its version: it fits the process's driver, and a
// second one would cost memory and time.
static void *open_any(void) {
  static const int modes[] = {RTLD_NOW | RTLD_NOLOAD, RTLD_NOW};
  for (size_t mode = 0; mode < sizeof modes / sizeof *modes; mode++)
    for (int i = 0; i < SONAMES; i++) {
      void *file = dlopen(sonames[i], modes[mode]);
      if (file != NULL) return file;
    }
  return NULL;
}

static ds_status find_functions(void *file, ds_cublaslt *functions) {
#define DS_CUBLASLT_FIND(name)                                                                               \
  functions->name = (__typeof__(name) *)(uintptr_t)dlsym(file, #name);                                       \
  if (functions->name == NULL)                                                                               \
    return ds_error(DS_E_UNSUPPORTED,                                                                        \
                    "the cuBLASLt library lacks the function %s; install the one of CUDA "                   \
                    "12 or 13",                                                                              \
                    #name);
  DS_CUBLASLT_FUNCTIONS(DS_CUBLASLT_FIND)
#undef DS_CUBLASLT_FIND
  return DS_OK;
}

static ds_status open_locked(const ds_cublaslt **library) {
  static ds_cublaslt functions;
  static int opened;
  if (!opened) {
    void *file = open_any();
    if (file == NULL)
      return ds_error(DS_E_UNSUPPORTED,
                      "matrix products of CUDA tensors need cuBLASLt, but neither %s nor %s could be opened; "
                      "install a CUDA build of PyTorch, the package nvidia-cublas or the CUDA toolkit, and "
                      "see that the library's folder is in LD_LIBRARY_PATH",
                      sonames[0], sonames[1]);
    const ds_status status = find_functions(file, &functions);
    if (status != DS_OK) {
      dlclose(file);
      return status;
    }
    opened = 1;
  }
  *library = &functions;
  return DS_OK;
}

ds_status ds_cublaslt_open(const ds_cublaslt **library) {
  pthread_mutex_lock(&mutex);
  const ds_status status = open_locked(library);
  pthread_mutex_unlock(&mutex);
  return status;
}

static ds_status create_handle(const ds_cublaslt *library, cublasLtHandle_t *handle) {
  const enum cudaStreamCaptureMode previous = ds_cuda_begin_relaxed();
  const cublasStatus_t status = library->cublasLtCreate(handle);
  ds_cuda_end_relaxed(previous);
  if (status == CUBLAS_STATUS_SUCCESS) return DS_OK;
  *handle = NULL;
  return ds_cublaslt_error(library, "creating a cuBLASLt handle", status);
}

ds_status ds_cublaslt_handle(const ds_cublaslt *library, int device, cublasLtHandle_t *handle) {
  static cublasLtHandle_t handles[DS_CUDA_MAX_DEVICES];
  if (device < 0 || device >= DS_CUDA_MAX_DEVICES)
    return ds_error(DS_E_DEVICE, "the CUDA device is %d, must be below %d", device, DS_CUDA_MAX_DEVICES);
  pthread_mutex_lock(&mutex);
  const ds_status status = handles[device] == NULL ? create_handle(library, &handles[device]) : DS_OK;
  *handle = handles[device];
  pthread_mutex_unlock(&mutex);
  return status;
}

ds_status ds_cublaslt_error(const ds_cublaslt *library, const char *what, cublasStatus_t status) {
  return ds_error(DS_E_CUDA, "%s failed: %s", what, library->cublasLtGetStatusString(status));
}
