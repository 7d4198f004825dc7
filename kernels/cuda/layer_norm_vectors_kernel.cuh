// layer_norm of rows of aligned 16-byte accesses, held in registers by as many threads as that takes: a part
// of a warp for 320 columns, a block for thousands.
#ifndef DS_LAYER_NORM_VECTORS_KERNEL_CUH
#define DS_LAYER_NORM_VECTORS_KERNEL_CUH

#include "layer_norm_rows.cuh"

namespace {

// Five make rows of 320, 640 and 1280 16-bit elements those of 8, 16 and 32 threads.
constexpr int VECTOR_ITEMS = 5;
// Leaves 80 registers each: with more, the compiler keeps gamma and beta in them, and fewer rows are under
// way.
constexpr int VECTOR_MAX_THREADS = 768;

// What a thread holds of a row: `count` vectors, `step` columns apart from `first` on. Indices into values
// are compile-time constants, so that they stay in registers.
template <typename T>
struct row_vectors {
  static constexpr int width = ds_vector_width<T>;
  typedef ds_pack<T, width> packs[VECTOR_ITEMS];
  float values[VECTOR_ITEMS][width];
  int first;
  int step;
  int count;

  __device__ row_vectors(int cols) {
    first = (int)threadIdx.x * width;
    step = (int)blockDim.x * width;
    count = first < cols ? min((cols - first - 1) / step + 1, VECTOR_ITEMS) : 0;
  }

  // Past the last column the row's first is read again: branches between loads would keep the compiler from
  // issuing them together.
  __device__ int offset(int item) const { return item < count ? first + item * step : 0; }

  __device__ void load(const T *row, packs &loaded) const {
#pragma unroll
    for (int i = 0; i < VECTOR_ITEMS; i++) loaded[i] = ds_load<T, width>(row + offset(i));
  }

  // values = input + bias + residual; zero past the last column.
  __device__ void load_sum(const row_operands<T> &row) {
    packs input, residual;
    load(row.input, input);
    if (row.residual != NULL) load(row.residual, residual);
#pragma unroll
    for (int i = 0; i < VECTOR_ITEMS; i++) {
      ds_unpack(input[i], values[i]);
      if (row.bias != NULL) ds_add_pack(ds_load<T, width>(row.bias + offset(i)), values[i]);
      if (row.residual != NULL) ds_add_pack(residual[i], values[i]);
#pragma unroll
      for (int j = 0; j < width; j++) values[i][j] = i < count ? values[i][j] : 0.0f;
    }
  }

  // Summed vector by vector, which shortens the chain of dependent additions.
  __device__ float total() const {
    float result = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTOR_ITEMS; i++) {
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < width; j++) sum += values[i][j];
      result += sum;
    }
    return result;
  }

  __device__ ds_moments moments_about(float mean) const {
    ds_moments result = {};
#pragma unroll
    for (int i = 0; i < VECTOR_ITEMS; i++) {
      ds_moments moments = {};
#pragma unroll
      for (int j = 0; j < width; j++) add_deviation(moments, values[i][j] - mean);
      if (i < count) result = result + moments;
    }
    return result;
  }

  // values = (values - mean) · scale · gamma + beta.
  __device__ void normalise(row_statistics row, const T *gamma, const T *beta) {
#pragma unroll
    for (int i = 0; i < VECTOR_ITEMS; i++) {
#pragma unroll
      for (int j = 0; j < width; j++) values[i][j] = (values[i][j] - row.mean) * row.scale;
      if (gamma != NULL) ds_multiply_pack(ds_load<T, width>(gamma + offset(i)), values[i]);
      if (beta != NULL) ds_add_pack(ds_load<T, width>(beta + offset(i)), values[i]);
    }
  }

  __device__ void store(T *row) const {
#pragma unroll
    for (int i = 0; i < VECTOR_ITEMS; i++)
      if (i < count) ds_store_floats(row + first + i * step, values[i]);
  }
};

template <typename T>
__global__ void __launch_bounds__(VECTOR_MAX_THREADS)
    layer_norm_vectors_kernel(const __grid_constant__ ds_layer_norm_params params, ds_origin origin) {
  __shared__ float partial_sums[DS_WARP];
  __shared__ ds_moments partial_moments[DS_WARP];
  const block_row place(origin, params.rows);
  const float inverse_cols = 1.0f / (float)params.cols;

  row_vectors<T> part((int)params.cols);
  part.load_sum(locate_row<T>(params, place.row));
  if (params.sum != NULL && place.inside) part.store(static_cast<T *>(params.sum) + place.row * params.cols);
  const float near_mean = ds_sum_row(part.total(), partial_sums) * inverse_cols;
  const ds_moments moments = ds_sum_row(part.moments_about(near_mean), partial_moments);
  part.normalise(statistics_about(near_mean, moments, inverse_cols, params.epsilon),
                 static_cast<const T *>(params.gamma), static_cast<const T *>(params.beta));
  if (place.inside) part.store(static_cast<T *>(params.output) + place.row * params.cols);
}

template <typename T>
bool allows_vectors(const ds_layer_norm_params &params) {
  constexpr int64_t most_cols = (int64_t)VECTOR_MAX_THREADS * VECTOR_ITEMS * ds_vector_width<T>;
  return params.cols % ds_vector_width<T> == 0 && params.cols <= most_cols &&
         ds_is_aligned(params.input, sizeof(T)) && ds_is_aligned(params.residual, sizeof(T)) &&
         ds_is_aligned(params.bias) && ds_is_aligned(params.gamma) && ds_is_aligned(params.beta) &&
         ds_is_aligned(params.output) && ds_is_aligned(params.sum);
}

template <typename T>
ds_status launch_vectors(const ds_layer_norm_params &params, void *stream) {
  const dim3 block =
      row_block(ds_ceil_div(params.cols, VECTOR_ITEMS * ds_vector_width<T>), VECTOR_MAX_THREADS);
  const ds_blocks blocks = {params.rows, 1, block.y, 1, block, 0};
  return ds_launch_blocks(op, layer_norm_vectors_kernel<T>, blocks, stream, params);
}

} // namespace

#endif
