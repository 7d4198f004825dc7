// A view of memory as rows × cols, whatever the strides of the tensor behind it.
//
// A tensor [d0, …, dn-1, cols] is seen as d0·…·dn-1 rows. Leading dimensions that lie regularly in memory are
// merged, so a contiguous tensor, and most slices of one, has dims == 1. Strides count elements, not bytes.
#ifndef DS_ROWS_H
#define DS_ROWS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DS_MAX_ROW_DIMS 8

typedef struct ds_rows {
  void *data;                       // element (0, 0); NULL where an optional operand is absent
  int64_t col_stride;               // from one column to the next; 1 is the fast case
  int32_t dims;                     // merged leading dimensions in use, 1 … DS_MAX_ROW_DIMS
  int64_t sizes[DS_MAX_ROW_DIMS];   // outermost first; their product is the number of rows
  int64_t strides[DS_MAX_ROW_DIMS]; // of the same dimensions
} ds_rows;

// Contiguous rows at `data`: dims 1, row stride `cols`, column stride 1.
static inline ds_rows ds_rows_contiguous(void *data, int64_t rows, int64_t cols) {
  ds_rows view;
  view.data = data;
  view.col_stride = 1;
  view.dims = 1;
  for (int i = 0; i < DS_MAX_ROW_DIMS; i++) {
    view.sizes[i] = i == 0 ? rows : 1;
    view.strides[i] = i == 0 ? cols : 0;
  }
  return view;
}

// Elements from `data` to the first element of row `row`.
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline int64_t
    ds_rows_offset(const ds_rows *view, int64_t row) {
  int64_t offset = 0;
  for (int32_t i = view->dims - 1; i > 0; i--) {
    offset += row % view->sizes[i] * view->strides[i];
    row /= view->sizes[i];
  }
  return offset + row * view->strides[0];
}

#ifdef __cplusplus
}
#endif
#endif
