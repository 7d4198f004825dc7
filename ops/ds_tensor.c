#include "ds_tensor.h"

int64_t ds_tensor_numel(const ds_tensor *tensor) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor->rank; i++) count *= tensor->sizes[i];
  return count;
}

int ds_tensor_is_contiguous(const ds_tensor *tensor) {
  int64_t expected = 1;
  if (ds_tensor_numel(tensor) == 0) return 1;
  for (int32_t i = tensor->rank - 1; i >= 0; i--) {
    if (tensor->sizes[i] != 1 && tensor->strides[i] != expected) return 0;
    expected *= tensor->sizes[i];
  }
  return 1;
}

// Appends a dimension inside those that `rows` has already, merging it with the last one where the two lie
// regularly. Returns 0 where there is no room.
static int append_row_dim(ds_rows *rows, int64_t size, int64_t stride) {
  if (rows->dims > 0 && rows->strides[rows->dims - 1] == size * stride) {
    rows->sizes[rows->dims - 1] *= size;
    rows->strides[rows->dims - 1] = stride;
    return 1;
  }
  if (rows->dims == DS_MAX_ROW_DIMS) return 0;
  rows->sizes[rows->dims] = size;
  rows->strides[rows->dims] = stride;
  rows->dims++;
  return 1;
}

ds_status ds_tensor_rows(const char *name, const ds_tensor *tensor, int32_t column_dim, ds_rows *rows) {
  const int32_t columns = column_dim < 0 ? tensor->rank - 1 : column_dim;
  const int empty = ds_tensor_numel(tensor) == 0;
  *rows = ds_rows_contiguous(tensor->data, empty ? 0 : 1, tensor->sizes[columns]);
  // The stride of a single column is never used, so it must not cost the fast case.
  rows->col_stride = tensor->sizes[columns] == 1 ? 1 : tensor->strides[columns];
  if (empty) return DS_OK;

  rows->dims = 0;
  for (int32_t i = 0; i < tensor->rank; i++) {
    if (i == columns || tensor->sizes[i] == 1) continue;
    if (!append_row_dim(rows, tensor->sizes[i], tensor->strides[i]))
      return ds_error(DS_E_STRIDE,
                      "%s has more than %d dimensions that cannot be merged into rows, must be contiguous",
                      name, DS_MAX_ROW_DIMS);
  }
  if (rows->dims == 0) rows->dims = 1; // a single row, as ds_rows_contiguous set it
  return DS_OK;
}
