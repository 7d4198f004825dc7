// What the layer_norm kernels share: operands of a row, its statistics, the shape of blocks over rows.
#ifndef DS_LAYER_NORM_ROWS_CUH
#define DS_LAYER_NORM_ROWS_CUH

#include "ds_cuda_launch.cuh"
#include "ds_cuda_reduce.cuh"
#include "ds_layer_norm_params.h"

namespace {

constexpr char op[] = "layer_norm";

// One row's operands at their first column.
template <typename T>
struct row_operands {
  const T *input;
  int64_t input_col_stride;
  const T *residual; // NULL: none
  int64_t residual_col_stride;
  const T *bias; // NULL: none
};

template <typename T>
__device__ row_operands<T> locate_row(const ds_layer_norm_params &params, int64_t row) {
  return {ds_row_address<const T>(params.input, row), params.input.col_stride,
          ds_row_address<const T>(params.residual, row), params.residual.col_stride,
          static_cast<const T *>(params.bias)};
}

struct row_statistics {
  float mean;
  float scale; // 1 / standard deviation
};

// From the moments about `near_mean`, which is off by the rounding of a sum and a product. Taking that off
// again (the corrected two-pass algorithm: Chan, Golub, LeVeque, 1983) makes a row of equal elements exactly
// zeros.
__device__ row_statistics statistics_about(float near_mean, ds_moments moments, float inverse_cols,
                                           float epsilon) {
  const float correction = moments.deviations * inverse_cols;
  const float variance = fmaxf(fmaf(-moments.deviations, correction, moments.squares), 0.0f) * inverse_cols;
  return {near_mean + correction, rsqrtf(variance + epsilon)};
}

__device__ void add_deviation(ds_moments &moments, float deviation) {
  moments.deviations += deviation;
  moments.squares = fmaf(deviation, deviation, moments.squares);
}

// Threads (in x) and rows (in y) of a block in which a row has at least `wanted` threads, up to `most`: a
// power of two below a warp, so that its sum is one of neighbouring lanes, or full warps of a single row.
dim3 row_block(int64_t wanted, int64_t most) {
  constexpr unsigned small_block_threads = 128;
  if (wanted > DS_WARP) return dim3((unsigned)ds_min(ds_ceil_div(wanted, DS_WARP) * DS_WARP, most));
  unsigned x = 1;
  while (x < wanted) x *= 2;
  return dim3(x, small_block_threads / x);
}

// The row of this thread in such a block. Threads past the last row keep to it, as whole warps take part in
// the sums, but are not `inside`: they store nothing.
struct block_row {
  int64_t row;
  bool inside;

  __device__ block_row(const ds_origin &origin, int64_t rows) {
    row = origin.row + (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    inside = row < rows;
    if (!inside) row = rows - 1;
  }
};

} // namespace

#endif
