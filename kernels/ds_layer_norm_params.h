// What a layer_norm kernel is told. Every field was checked by the caller; kernels do not check again.
#ifndef DS_LAYER_NORM_PARAMS_H
#define DS_LAYER_NORM_PARAMS_H

#include "ds_dtype.h"
#include "ds_rows.h"

// For each row: s = input + bias + residual, summed in float32;
// output = (s - mean(s)) · rsqrt(var(s) + epsilon) · gamma + beta, with the biased variance, two-pass, in
// float32 (torch.nn.functional.layer_norm). The norm is taken of the unrounded s; `sum` gets s rounded once.
// Outputs overlap no input and not each other. rows == 0 launches nothing; cols >= 1.
typedef struct ds_layer_norm_params {
  ds_dtype dtype; // of every operand: DS_FLOAT32, DS_FLOAT16 or DS_BFLOAT16
  int64_t rows;
  int64_t cols;
  float epsilon;
  ds_rows input;
  ds_rows residual;  // data NULL: none
  const void *bias;  // [cols], contiguous; NULL: none
  const void *gamma; // [cols], contiguous; NULL: ones
  const void *beta;  // [cols], contiguous; NULL: zeros
  void *output;      // [rows, cols], contiguous
  void *sum;         // [rows, cols], contiguous; NULL: not stored
} ds_layer_norm_params;

#endif
