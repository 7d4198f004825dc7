// The steps of layer_norm over rows whose sums lie in shared memory, one element an access. Rows too long to
// be held there are read again for each step.
#ifndef DS_LAYER_NORM_SHARED_ROWS_CUH
#define DS_LAYER_NORM_SHARED_ROWS_CUH

#include "layer_norm_rows.cuh"

namespace {

// Sets or adds `cols` elements at `address` to sums: of these, columns first, first + step, … are this
// thread's. BATCH loads are issued together; past the last column, it is read again.
template <typename T, int BATCH, bool ADD>
__device__ void read_columns(float *sums, const T *address, int64_t col_stride, int cols, int first,
                             int step) {
  for (int col = first; col < cols; col += BATCH * step) {
    T loaded[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++)
      loaded[i] = ds_load_element(address + min(col + i * step, cols - 1) * col_stride);
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const float value = ds_to_float(loaded[i]);
      float *const sum = sums + col + i * step;
      if (col + i * step < cols) *sum = ADD ? *sum + value : value;
    }
  }
}

// sums = input + bias + residual, for `cols` columns from `begin` on.
template <typename T, int BATCH>
__device__ void read_sums(float *sums, const row_operands<T> &row, int64_t begin, int cols, int first,
                          int step) {
  read_columns<T, BATCH, false>(sums, row.input + begin * row.input_col_stride, row.input_col_stride, cols,
                                first, step);
  if (row.bias != NULL) read_columns<T, BATCH, true>(sums, row.bias + begin, 1, cols, first, step);
  if (row.residual != NULL)
    read_columns<T, BATCH, true>(sums, row.residual + begin * row.residual_col_stride,
                                 row.residual_col_stride, cols, first, step);
}

// The part of the steps after the sums that columns and tiles share: `sums` has `cols` columns from `begin`
// on of one row, and columns first, first + step, … are this thread's.
template <typename T>
struct shared_part {
  const float *sums;
  int64_t begin;
  int cols;
  int first;
  int step;

  __device__ float total() const {
    float result = 0.0f;
    for (int col = first; col < cols; col += step) result += sums[col];
    return result;
  }

  __device__ void add_moments_about(float mean, ds_moments &moments) const {
    for (int col = first; col < cols; col += step) add_deviation(moments, sums[col] - mean);
  }

  __device__ void store_sums(T *row) const {
    for (int col = first; col < cols; col += step) ds_round(sums[col], row + begin + col);
  }

  __device__ void store_normalised(T *row, row_statistics statistics, const T *gamma, const T *beta) const {
    for (int col = first; col < cols; col += step) {
      const float factor = gamma == NULL ? 1.0f : ds_to_float(ds_load_element(gamma + begin + col));
      const float addend = beta == NULL ? 0.0f : ds_to_float(ds_load_element(beta + begin + col));
      ds_round((sums[col] - statistics.mean) * statistics.scale * factor + addend, row + begin + col);
    }
  }
};

// The three steps over one row, part by part of at most part_cols columns. read(begin, cols) leaves a part's
// sums in shared memory, add_up(x) is the sum of x (a float, later moments) over the threads that share the
// row.
template <typename T, typename Read, typename AddUp>
__device__ void normalise_row(const ds_layer_norm_params &params, int64_t row, bool inside, int part_cols,
                              const float *sums, int first, int step, Read read, AddUp add_up) {
  const bool held = params.cols <= part_cols;
  const float inverse_cols = 1.0f / (float)params.cols;
  const auto part_at = [&](int64_t begin) {
    return shared_part<T>{sums, begin, (int)min(params.cols - begin, (int64_t)part_cols), first, step};
  };

  float sum = 0.0f;
  for (int64_t begin = 0; begin < params.cols; begin += part_cols) {
    const shared_part<T> part = part_at(begin);
    read(begin, part.cols);
    sum += part.total();
    if (params.sum != NULL && inside) part.store_sums(static_cast<T *>(params.sum) + row * params.cols);
  }
  const float near_mean = add_up(sum) * inverse_cols;

  ds_moments moments = {};
  for (int64_t begin = 0; begin < params.cols; begin += part_cols) {
    const shared_part<T> part = part_at(begin);
    if (!held) read(begin, part.cols);
    part.add_moments_about(near_mean, moments);
  }
  const row_statistics statistics =
      statistics_about(near_mean, add_up(moments), inverse_cols, params.epsilon);

  for (int64_t begin = 0; begin < params.cols; begin += part_cols) {
    const shared_part<T> part = part_at(begin);
    if (!held) read(begin, part.cols);
    if (inside)
      part.store_normalised(static_cast<T *>(params.output) + row * params.cols, statistics,
                            static_cast<const T *>(params.gamma), static_cast<const T *>(params.beta));
  }
}

} // namespace

#endif
