#include "ds_torch_cuda.h"
#include "ds_cuda_loader.h"
#include "ds_torch.h"
#include <dlfcn.h>
#include <pthread.h>

typedef struct cuda_shim {
#define DS_SHIM_FIELD(since, return_type, name, arguments) return_type(*name) arguments;
  DS_TORCH_CUDA_SHIM(DS_SHIM_FIELD)
#undef DS_SHIM_FIELD
} cuda_shim;

// cublasGetMathMode of the cuBLAS that torch multiplies with. Its handle and mode, a pointer and an enum, are
// the same in CUDA 12 and 13.
typedef int (*get_math_mode_fn)(void *handle, int *mode);
enum { MATH_MODE_MASK = 0xf, MATH_MODE_TF32 = 3 }; // CUBLAS_TF32_TENSOR_OP_MATH; the other bits are flags

// Fills `shim` from the libtorch_cuda.so that is in the process. Cheap enough for a call only once: the
// result is kept.
static ds_status find_cuda_shim(cuda_shim *table, get_math_mode_fn *get_math_mode) {
  void *library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
  if (library == NULL)
    return ds_error(DS_E_UNSUPPORTED,
                    "ds_diffusers: the tensors are on a CUDA device, but libtorch_cuda.so is not "
                    "loaded; install a CUDA build of torch");
  ds_status status = DS_OK;
#define DS_FIND_SHIM(since, return_type, name, arguments)                                                    \
  table->name = (return_type(*) arguments)(uintptr_t)dlsym(library, #name);                                  \
  if (table->name == NULL && status == DS_OK)                                                                \
    status = ds_error(DS_E_UNSUPPORTED,                                                                      \
                      "ds_diffusers: libtorch_cuda.so has no %s; install torch 2.10 or newer", #name);
  DS_TORCH_CUDA_SHIM(DS_FIND_SHIM)
#undef DS_FIND_SHIM
  // Found in what libtorch_cuda.so depends on. A torch that has cuBLAS linked in keeps it to itself.
  *get_math_mode = (get_math_mode_fn)(uintptr_t)dlsym(library, "cublasGetMathMode");
  // torch holds the library for as long as the process runs, so this only gives back the extra reference.
  dlclose(library);
  return status;
}

// Filled at the first success and constant from then on. The lock costs some 20 ns of a call.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static cuda_shim shim;
static get_math_mode_fn get_math_mode;
static const ds_cuda_module *opened_module;

static ds_status open_once(const ds_cuda_module **module) {
  pthread_mutex_lock(&lock);
  ds_status status = DS_OK;
  if (opened_module == NULL) {
    status = find_cuda_shim(&shim, &get_math_mode);
    if (status == DS_OK) status = ds_cuda_module_open(NULL, &opened_module);
  }
  *module = opened_module;
  pthread_mutex_unlock(&lock);
  return status;
}

ds_status ds_torch_cuda_enter(int32_t device_index, CUDAGuardHandle *guard, void **stream,
                              const ds_cuda_module **module) {
  *guard = NULL;
  DS_CHECK(open_once(module));
  DS_CHECK(
      ds_from_torch(shim.aoti_torch_create_cuda_guard(device_index, guard), "aoti_torch_create_cuda_guard"));
  ds_status status = ds_from_torch(shim.aoti_torch_get_current_cuda_stream(device_index, stream),
                                   "aoti_torch_get_current_cuda_stream");
  if (status == DS_OK) {
    status = (*module)->check_device();
    if (status != DS_OK) ds_error(status, "ds_diffusers: %s", (*module)->error_message());
  }
  if (status != DS_OK) ds_torch_cuda_leave(guard);
  return status;
}

// No function of the stable ABI tells the setting. But torch gives its handle the mode that follows from it
// each time it hands the handle out.
ds_status ds_torch_cuda_allows_tf32(int *allowed) {
  void *handle = NULL;
  int mode = 0;
  *allowed = 0;
  if (get_math_mode == NULL) return DS_OK; // full precision is right in any case
  DS_CHECK(
      ds_from_torch(shim.torch_get_current_cuda_blas_handle(&handle), "torch_get_current_cuda_blas_handle"));
  const int error = get_math_mode(handle, &mode);
  if (error != 0)
    return ds_error(DS_E_CUDA,
                    "ds_diffusers: reading the math mode of torch's cuBLAS handle failed: status %d", error);
  *allowed = (mode & MATH_MODE_MASK) == MATH_MODE_TF32;
  return DS_OK;
}

void ds_torch_cuda_leave(CUDAGuardHandle *guard) {
  if (*guard != NULL) (void)shim.aoti_torch_delete_cuda_guard(*guard);
  *guard = NULL;
}
