// What a gated_activation kernel is told. Every field was checked by the caller; kernels do not check again.
#ifndef DS_GATED_ACTIVATION_PARAMS_H
#define DS_GATED_ACTIVATION_PARAMS_H

#include "ds_dtype.h"
#include "ds_rows.h"

// DeepSpeed's numbering of activation functions. The two gated ones are supported.
typedef enum ds_activation_type {
  DS_ACTIVATION_UNKNOWN = 0,
  DS_ACTIVATION_GELU = 1,
  DS_ACTIVATION_RELU = 2,
  DS_ACTIVATION_GATED_GELU = 3, // exact: x · ½(1 + erf(x / √2)), as torch.nn.functional.gelu's default
  DS_ACTIVATION_GATED_SILU = 4  // x / (1 + exp(-x)), as torch.nn.functional.silu
} ds_activation_type;

// output[r, c] = (input[r, c] + bias[c]) · act(input[r, cols + c] + bias[cols + c]), in float32, rounded
// once. The output overlaps no input. rows == 0 or cols == 0 launches nothing.
typedef struct ds_gated_activation_params {
  ds_dtype dtype; // of every operand: DS_FLOAT32, DS_FLOAT16 or DS_BFLOAT16
  int64_t rows;
  int64_t cols;                       // of the output: half of the input's
  ds_rows input;                      // [rows, 2·cols]: values, then gates
  const void *bias;                   // [2·cols], contiguous; NULL: none
  ds_activation_type activation_type; // DS_ACTIVATION_GATED_GELU or DS_ACTIVATION_GATED_SILU
  void *output;                       // [rows, cols], contiguous
} ds_gated_activation_params;

#endif
