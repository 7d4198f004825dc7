// Element types. Kernels compute with the first three; the others only have names, for messages.
#ifndef DS_DTYPE_H
#define DS_DTYPE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ds_dtype {
  DS_FLOAT32 = 0,
  DS_FLOAT16,  // IEEE 754 binary16
  DS_BFLOAT16, // the upper half of a binary32
  DS_FLOAT64,
  DS_UINT8,
  DS_INT8,
  DS_INT16,
  DS_INT32,
  DS_INT64,
  DS_BOOL,
  DS_COMPLEX64,
  DS_COMPLEX128,
  DS_DTYPE_OTHER // one that the library has no name for
} ds_dtype;

// Bytes of one element: 4 or 2 for the types that kernels compute with, 0 for all others.
size_t ds_dtype_bytes(ds_dtype dtype);

// PyTorch's name of the type: "float32", "bfloat16", … ; "an unknown dtype" for DS_DTYPE_OTHER.
const char *ds_dtype_name(ds_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
