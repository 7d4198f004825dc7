// RTLD_DEFAULT
#define _GNU_SOURCE
#include "ds_torch.h"
#include <dlfcn.h>

ds_torch_recent_shim ds_torch_recent;

void ds_torch_find_recent(void) {
  // The default scope of this library holds libtorch_cpu.so, which it depends on.
#define DS_FIND_SHIM(since, return_type, name, arguments)                                                    \
  ds_torch_recent.name = (return_type(*) arguments)(uintptr_t)dlsym(RTLD_DEFAULT, #name);
  DS_TORCH_RECENT_SHIM(DS_FIND_SHIM)
#undef DS_FIND_SHIM
}

ds_status ds_from_torch(AOTITorchError error, const char *function) {
  if (error == 0) return DS_OK;
  const char *what = ds_torch_recent.torch_exception_get_what_without_backtrace == NULL
                         ? NULL
                         : ds_torch_recent.torch_exception_get_what_without_backtrace();
  if (what == NULL || *what == '\0')
    return ds_error(DS_E_SERVICE,
                    "ds_diffusers: %s failed; torch wrote the reason to the standard error output", function);
  return ds_error(DS_E_SERVICE, "ds_diffusers: %s failed: %s", function, what);
}

static ds_dtype dtype_of_code(int32_t code) {
  if (code == aoti_torch_dtype_float16()) return DS_FLOAT16;
  if (code == aoti_torch_dtype_float32()) return DS_FLOAT32;
  if (code == aoti_torch_dtype_bfloat16()) return DS_BFLOAT16;
  if (code == aoti_torch_dtype_float64()) return DS_FLOAT64;
  if (code == aoti_torch_dtype_uint8()) return DS_UINT8;
  if (code == aoti_torch_dtype_int8()) return DS_INT8;
  if (code == aoti_torch_dtype_int16()) return DS_INT16;
  if (code == aoti_torch_dtype_int32()) return DS_INT32;
  if (code == aoti_torch_dtype_int64()) return DS_INT64;
  if (code == aoti_torch_dtype_bool()) return DS_BOOL;
  if (code == aoti_torch_dtype_complex64()) return DS_COMPLEX64;
  if (code == aoti_torch_dtype_complex128()) return DS_COMPLEX128;
  return DS_DTYPE_OTHER;
}

ds_status ds_torch_dtype(AtenTensorHandle tensor, ds_dtype *dtype) {
  int32_t code = 0;
  DS_CHECK(DS_TORCH(aoti_torch_get_dtype, (tensor, &code)));
  *dtype = dtype_of_code(code);
  return DS_OK;
}

int32_t ds_torch_dtype_code(ds_dtype dtype) {
  switch (dtype) {
  case DS_FLOAT16:
    return aoti_torch_dtype_float16();
  case DS_BFLOAT16:
    return aoti_torch_dtype_bfloat16();
  default:
    return aoti_torch_dtype_float32();
  }
}

int32_t ds_torch_device_code(ds_device_type device_type) {
  return device_type == DS_CUDA ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu();
}

ds_status ds_torch_describe(AtenTensorHandle tensor, ds_tensor *description) {
  int64_t rank = 0, *sizes = NULL, *strides = NULL;
  int32_t dtype = 0, device_type = 0, device_index = 0;
  const void *data = NULL;
  DS_CHECK(DS_TORCH(aoti_torch_get_dim, (tensor, &rank)));
  DS_CHECK(DS_TORCH(aoti_torch_get_sizes, (tensor, &sizes)));
  DS_CHECK(DS_TORCH(aoti_torch_get_strides, (tensor, &strides)));
  DS_CHECK(DS_TORCH(aoti_torch_get_dtype, (tensor, &dtype)));
  DS_CHECK(DS_TORCH(aoti_torch_get_device_type, (tensor, &device_type)));
  DS_CHECK(DS_TORCH(aoti_torch_get_device_index, (tensor, &device_index)));
  DS_CHECK(DS_TORCH(torch_get_const_data_ptr, (tensor, &data)));
  *description = (ds_tensor){.data = (void *)(uintptr_t)data,
                             .dtype = dtype_of_code(dtype),
                             .device_type = device_type == aoti_torch_device_type_cpu()    ? DS_CPU
                                            : device_type == aoti_torch_device_type_cuda() ? DS_CUDA
                                                                                           : DS_DEVICE_OTHER,
                             .device_index = device_type == aoti_torch_device_type_cpu() ? 0 : device_index,
                             .rank = (int32_t)rank,
                             .sizes = sizes,
                             .strides = strides};
  return DS_OK;
}

void ds_torch_release(AtenTensorHandle *tensor) {
  if (*tensor != NULL) (void)aoti_torch_delete_tensor_object(*tensor);
  *tensor = NULL;
}

ds_status ds_torch_view(const void *data, int32_t rank, const int64_t *sizes, const int64_t *strides,
                        const ds_tensor *like, AtenTensorHandle *view) {
  return DS_TORCH(aoti_torch_create_tensor_from_blob_v2,
                  ((void *)(uintptr_t)data, rank, sizes, strides, 0, ds_torch_dtype_code(like->dtype),
                   ds_torch_device_code(like->device_type), like->device_index, view,
                   aoti_torch_layout_strided(), NULL, 0));
}

ds_status ds_torch_empty_strided(int32_t rank, const int64_t *sizes, const int64_t *strides,
                                 int32_t dtype_code, const ds_tensor *device_of, AtenTensorHandle *tensor) {
  return DS_TORCH(aoti_torch_empty_strided,
                  (rank, sizes, strides, dtype_code, ds_torch_device_code(device_of->device_type),
                   device_of->device_index, tensor));
}

ds_status ds_torch_parallel_for(int64_t begin, int64_t end, int64_t grain,
                                void (*range)(int64_t, int64_t, void *), void *argument) {
  // torch would do the same, and takes longer over it than some kernels do.
  if (end - begin <= grain) {
    range(begin, end, argument);
    return DS_OK;
  }
  return DS_TORCH(torch_parallel_for, (begin, end, grain, range, argument));
}
