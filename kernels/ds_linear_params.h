// What a linear (matrix product) service or kernel is told. Every field was checked by the caller.
#ifndef DS_LINEAR_PARAMS_H
#define DS_LINEAR_PARAMS_H

#include "ds_dtype.h"
#include <stddef.h>
#include <stdint.h>

// output = input · weightᵀ + bias + residual (torch.nn.functional.linear), absent terms left out, accumulated
// in float32, rounded once; where a library cannot add bias and residual in float32, the bare product is
// rounded too. Each operand is row-major with its last dimension contiguous; row strides count elements. The
// output overlaps no input. rows == 0 or out_features == 0 does nothing; in_features == 0 sums nothing.
typedef struct ds_linear_params {
  ds_dtype dtype; // of every operand but a quantised weight
  // float32 alone: whether a GPU may round input and weight to TF32 (8 bits of exponent, 10 of fraction)
  // before it multiplies. The caller of a kernel sets it; ops leaves it to the service.
  int allow_tf32;
  int64_t rows;
  int64_t in_features;
  int64_t out_features;
  const void *input; // [rows, in_features]
  int64_t input_row_stride;
  const void *weight; // [out_features, in_features]
  int64_t weight_row_stride;
  // Of a quantised weight, int8, which stands for weight[n, k] · scale[n, k / (in_features / groups)]; NULL:
  // the weight is of dtype. Only for services that take quantised weights.
  const float *scale;   // [out_features, groups], contiguous
  int64_t groups;       // divides in_features
  const void *bias;     // [out_features], contiguous; NULL: none
  const void *residual; // [rows, out_features]; NULL: none
  int64_t residual_row_stride;
  void *output; // [rows, out_features]
  int64_t output_row_stride;
  void *workspace; // memory for the product's own use, aligned to 256 bytes; NULL: none
  size_t workspace_bytes;
} ds_linear_params;

#endif
