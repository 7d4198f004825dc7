// torch's codes and errors in the library's terms.
#ifndef DS_TORCH_H
#define DS_TORCH_H

#include "ds_tensor.h"
#include "ds_torch_shim.h"

// DS_OK for a code of 0, else DS_E_SERVICE with a message that names the function and, from torch 2.13 on,
// what it said.
ds_status ds_from_torch(AOTITorchError error, const char *function);

// Calls a shim function: DS_TORCH(aoti_torch_get_dim, (tensor, &rank)).
#define DS_TORCH(function, arguments) ds_from_torch(function arguments, #function)

// Describes `tensor` without owning it: sizes and strides point into it.
ds_status ds_torch_describe(AtenTensorHandle tensor, ds_tensor *description);

ds_status ds_torch_dtype(AtenTensorHandle tensor, ds_dtype *dtype);

// torch's codes for a dtype that kernels compute with, and for a device.
int32_t ds_torch_dtype_code(ds_dtype dtype);
int32_t ds_torch_device_code(ds_device_type device_type);

// Releases *tensor unless it is NULL, and sets it to NULL. Nothing can be done about a failure to release.
void ds_torch_release(AtenTensorHandle *tensor);

// A tensor over memory that it does not own, on the same device and of the same dtype as `like`.
ds_status ds_torch_view(const void *data, int32_t rank, const int64_t *sizes, const int64_t *strides,
                        const ds_tensor *like, AtenTensorHandle *view);

// A new tensor without initial values. dtype_code is torch's, for dtypes that kernels don't know.
ds_status ds_torch_empty_strided(int32_t rank, const int64_t *sizes, const int64_t *strides,
                                 int32_t dtype_code, const ds_tensor *device_of, AtenTensorHandle *tensor);

// libtorch's thread pool as a ds_parallel_for_fn.
ds_status ds_torch_parallel_for(int64_t begin, int64_t end, int64_t grain,
                                void (*range)(int64_t, int64_t, void *), void *argument);

#endif
