// What a bias_add kernel is told. Every field was checked by the caller; kernels do not check again.
#ifndef DS_BIAS_ADD_PARAMS_H
#define DS_BIAS_ADD_PARAMS_H

#include "ds_dtype.h"
#include "ds_rows.h"

// output = (input + bias) + (other + other_bias), absent terms left out, in float32, rounded once.
// Rows are positions (batch and pixels or tokens), columns are channels: channels-last memory has column
// stride 1; an NCHW-contiguous tensor has row stride 1 and column stride H·W. The output overlaps no input.
// rows == 0 or cols == 0 launches nothing.
typedef struct ds_bias_add_params {
  ds_dtype dtype; // of every operand: DS_FLOAT32, DS_FLOAT16 or DS_BFLOAT16
  int64_t rows;
  int64_t cols;
  ds_rows input;
  const void *bias;       // [cols], contiguous; NULL: none
  ds_rows other;          // data NULL: none
  const void *other_bias; // [cols], contiguous; NULL: none
  ds_rows output;
} ds_bias_add_params;

#endif
