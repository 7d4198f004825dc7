#include "ds_dtype.h"

size_t ds_dtype_bytes(ds_dtype dtype) {
  switch (dtype) {
  case DS_FLOAT32:
    return 4;
  case DS_FLOAT16:
  case DS_BFLOAT16:
    return 2;
  default:
    return 0;
  }
}

const char *ds_dtype_name(ds_dtype dtype) {
  switch (dtype) {
  case DS_FLOAT32:
    return "float32";
  case DS_FLOAT16:
    return "float16";
  case DS_BFLOAT16:
    return "bfloat16";
  case DS_FLOAT64:
    return "float64";
  case DS_UINT8:
    return "uint8";
  case DS_INT8:
    return "int8";
  case DS_INT16:
    return "int16";
  case DS_INT32:
    return "int32";
  case DS_INT64:
    return "int64";
  case DS_BOOL:
    return "bool";
  case DS_COMPLEX64:
    return "complex64";
  case DS_COMPLEX128:
    return "complex128";
  case DS_DTYPE_OTHER:
    break;
  }
  return "an unknown dtype";
}
