// What a gated_linear kernel is told. Every field was checked by the caller; kernels do not check again.
#ifndef DS_GATED_LINEAR_PARAMS_H
#define DS_GATED_LINEAR_PARAMS_H

#include "ds_dtype.h"
#include "ds_gated_activation_params.h"
#include <stdint.h>

// output[r, c] = (input[r] · weight[c] + bias[c]) · act(input[r] · weight[cols + c] + bias[cols + c]), in
// float32, rounded once: a linear and the gated activation of its result (Shazeer: GLU Variants Improve
// Transformer, 2020), without that result in memory. Each operand is row-major with its last dimension
// contiguous; row strides count elements. The output overlaps no input.
typedef struct ds_gated_linear_params {
  ds_dtype dtype; // of every operand
  int64_t rows;
  int64_t in_features;
  int64_t cols;      // of the output: half of the weight's rows
  const void *input; // [rows, in_features]
  int64_t input_row_stride;
  const void *weight; // [2·cols, in_features]: values, then gates
  int64_t weight_row_stride;
  const void *bias;                   // [2·cols], contiguous; NULL: none
  ds_activation_type activation_type; // DS_ACTIVATION_GATED_GELU or DS_ACTIVATION_GATED_SILU
  void *output;                       // [rows, cols]
  int64_t output_row_stride;
} ds_gated_linear_params;

#endif
