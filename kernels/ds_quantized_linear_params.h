// What a quantized_linear kernel is told. Every field was checked by the caller; kernels do not check again.
#ifndef DS_QUANTIZED_LINEAR_PARAMS_H
#define DS_QUANTIZED_LINEAR_PARAMS_H

#include "ds_dtype.h"
#include "ds_gated_activation_params.h"
#include <stdint.h>

// A linear with an int8 weight, each of whose rows has a scale: with p[r, n] = scale[n] · (input[r] ·
// weight[n])
// + bias[n],
//
//   output[r, c] = p[r, c] + residual[r, c], or, gated,
//   output[r, c] = p[r, c] · act(p[r, cols + c]).
//
// Products of the integers themselves, accumulated in float32, in which scale, bias, gate and residual
// follow; rounded once. Each operand is row-major with its last dimension contiguous; row strides count
// elements. The output overlaps no input.
typedef struct ds_quantized_linear_params {
  ds_dtype dtype; // of every operand but weight and scale
  int64_t rows;
  int64_t in_features;
  int64_t cols;      // of the output
  const void *input; // [rows, in_features]
  int64_t input_row_stride;
  const int8_t *weight; // [cols, in_features]; gated: [2·cols, in_features], values first, gates second
  int64_t weight_row_stride;
  const float *scale;      // of each row of the weight, contiguous
  const void *bias;        // of each row of the weight, contiguous; NULL: none
  ds_activation_type gate; // DS_ACTIVATION_GATED_GELU, DS_ACTIVATION_GATED_SILU; any other: not gated
  const void *residual;    // [rows, cols]; NULL: none, and where gated
  int64_t residual_row_stride;
  void *output; // [rows, cols]
  int64_t output_row_stride;
} ds_quantized_linear_params;

static inline int ds_quantized_linear_is_gated(const ds_quantized_linear_params *params) {
  return params->gate == DS_ACTIVATION_GATED_GELU || params->gate == DS_ACTIVATION_GATED_SILU;
}

#endif
