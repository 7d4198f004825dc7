// What a dequantize kernel is told. Every field was checked by the caller; kernels do not check again.
#ifndef DS_DEQUANTIZE_PARAMS_H
#define DS_DEQUANTIZE_PARAMS_H

#include "ds_dtype.h"
#include <stdint.h>

// output[r, c] = weight[r, c] · scale[r, c / (cols / groups)], in float32, rounded once: what a symmetrically
// quantised matrix stands for. The output overlaps no input and is aligned to its elements. rows == 0 or
// cols == 0 launches nothing.
typedef struct ds_dequantize_params {
  ds_dtype dtype; // of the output: DS_FLOAT32, DS_FLOAT16 or DS_BFLOAT16
  int64_t rows;
  int64_t cols;
  const int8_t *weight; // [rows, cols], contiguous columns
  int64_t weight_row_stride;
  const float *scale; // [rows, groups], contiguous
  int64_t groups;     // of each row; divides cols
  void *output;       // [rows, cols], contiguous
} ds_dequantize_params;

#endif
