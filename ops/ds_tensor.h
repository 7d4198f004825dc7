// A tensor as the operators see it: a borrowed description, owning nothing.
#ifndef DS_TENSOR_H
#define DS_TENSOR_H

#include "ds_dtype.h"
#include "ds_rows.h"
#include "ds_status.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ds_device_type { DS_CPU = 0, DS_CUDA, DS_DEVICE_OTHER } ds_device_type;

typedef struct ds_tensor {
  void *data; // the first element; may be NULL when the tensor is empty
  ds_dtype dtype;
  ds_device_type device_type;
  int32_t device_index;   // of a CUDA device; 0 on the CPU
  int32_t rank;           // number of dimensions
  const int64_t *sizes;   // [rank]
  const int64_t *strides; // [rank], in elements
} ds_tensor;

// Product of the sizes; 1 for rank 0.
int64_t ds_tensor_numel(const ds_tensor *tensor);

// Whether the elements lie in row-major order without gaps; strides of dimensions of size 1 don't matter, and
// no stride of an empty tensor does.
int ds_tensor_is_contiguous(const ds_tensor *tensor);

// Sees `tensor` (rank >= 1) as rows of its dimension `column_dim` (counted from 0; -1: the last), all other
// dimensions in order making the rows. Merges dimensions that lie regularly in memory. DS_E_STRIDE where more
// than DS_MAX_ROW_DIMS remain; the message names `name`.
ds_status ds_tensor_rows(const char *name, const ds_tensor *tensor, int32_t column_dim, ds_rows *rows);

#ifdef __cplusplus
}
#endif
#endif
