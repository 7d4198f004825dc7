// From a dtype to the element type that a kernel is compiled for.
#ifndef DS_CUDA_DTYPE_CUH
#define DS_CUDA_DTYPE_CUH

#include "ds_dtype.h"
#include "ds_status.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Stands for the type T in an argument list.
template <typename T>
struct ds_element {
  using type = T;
};

// launch(ds_element<T>()) with the T of `dtype`; DS_E_DTYPE for those that kernels do not compute with.
template <typename Launch>
ds_status ds_with_element(const char *op, ds_dtype dtype, Launch launch) {
  switch (dtype) {
  case DS_FLOAT32:
    return launch(ds_element<float>());
  case DS_FLOAT16:
    return launch(ds_element<__half>());
  case DS_BFLOAT16:
    return launch(ds_element<__nv_bfloat16>());
  default:
    return ds_error(DS_E_DTYPE, "%s: dtype %s is not supported", op, ds_dtype_name(dtype));
  }
}

// The same for what only 16-bit types have a kernel for.
template <typename Launch>
ds_status ds_with_16_bit_element(const char *op, ds_dtype dtype, Launch launch) {
  switch (dtype) {
  case DS_FLOAT16:
    return launch(ds_element<__half>());
  case DS_BFLOAT16:
    return launch(ds_element<__nv_bfloat16>());
  default:
    return ds_error(DS_E_DTYPE, "%s: dtype %s is not supported", op, ds_dtype_name(dtype));
  }
}

#endif
