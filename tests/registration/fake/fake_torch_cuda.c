// A stand-in for libtorch_cuda.so. Its functions count and fail as the program's fake torch says.
#include <stddef.h>
#include <stdint.h>

extern int32_t ds_fake_must_fail(void);
extern void ds_fake_count_guards(int32_t change);
extern int32_t ds_fake_math_mode(void);

struct CUDAGuardOpaque {
  int32_t device_index;
};

int32_t aoti_torch_create_cuda_guard(int32_t device_index, struct CUDAGuardOpaque **guard);
int32_t aoti_torch_delete_cuda_guard(struct CUDAGuardOpaque *guard);
int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void **stream);
int32_t torch_get_current_cuda_blas_handle(void **handle);
int cublasGetMathMode(void *handle, int *mode);

// One for all calls: none of the tests nests them.
static struct CUDAGuardOpaque current;

int32_t aoti_torch_create_cuda_guard(int32_t device_index, struct CUDAGuardOpaque **guard) {
  if (ds_fake_must_fail()) return 1;
  current.device_index = device_index;
  *guard = &current;
  ds_fake_count_guards(1);
  return 0;
}

int32_t aoti_torch_delete_cuda_guard(struct CUDAGuardOpaque *guard) {
  (void)guard;
  ds_fake_count_guards(-1);
  return 0;
}

int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void **stream) {
  (void)device_index;
  if (ds_fake_must_fail()) return 1;
  *stream = NULL;
  return 0;
}

int32_t torch_get_current_cuda_blas_handle(void **handle) {
  if (ds_fake_must_fail()) return 1;
  *handle = &current;
  return 0;
}

// Of cuBLAS, which torch's library brings with it.
int cublasGetMathMode(void *handle, int *mode) {
  if (handle != &current || ds_fake_must_fail()) return 1;
  *mode = ds_fake_math_mode();
  return 0;
}
