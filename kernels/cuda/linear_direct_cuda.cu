// Matrix products that cuBLASLt cannot describe: overlapping rows (an expanded tensor has row stride 0), no
// input features, sizes beyond 32 bits, an arrangement that no algorithm of its takes. Contract in
// ds_linear_params.h. Made to be right for everything, not to be fast.
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "linear_direct_cuda.h"

namespace {

constexpr char op[] = "linear";

constexpr int TILE = 32; // rows and output features of a block, and input features that it holds at a time
constexpr int TILE_WARPS = 8; // each lane sums TILE / TILE_WARPS elements of a column of the output

// rows × TILE elements of a matrix from (first_row, first_col) on; zero outside of it.
template <typename T>
__device__ void read_tile(const void *data, int64_t row_stride, int64_t rows, int64_t cols, int64_t first_row,
                          int64_t first_col, float (&tile)[TILE][TILE + 1]) {
  const int64_t col = first_col + threadIdx.x;
  for (int i = threadIdx.y; i < TILE; i += TILE_WARPS) {
    const bool inside = first_row + i < rows && col < cols;
    const T *const row = static_cast<const T *>(data) + (first_row + i) * row_stride;
    tile[i][threadIdx.x] = inside ? ds_to_float(ds_load_element(row + col)) : 0.0f;
  }
}

template <typename T>
__global__ void __launch_bounds__(TILE *TILE_WARPS)
    linear_direct_kernel(const __grid_constant__ ds_linear_params params, ds_origin origin) {
  __shared__ float input[TILE][TILE + 1], weight[TILE][TILE + 1];
  const int64_t first_row = origin.row + (int64_t)blockIdx.x * TILE;
  const int64_t first_feature = origin.col + (int64_t)blockIdx.y * TILE;
  float sums[TILE / TILE_WARPS] = {};
  ds_wait_for_stream();
  for (int64_t k = 0; k < params.in_features; k += TILE) {
    read_tile<T>(params.input, params.input_row_stride, params.rows, params.in_features, first_row, k, input);
    read_tile<T>(params.weight, params.weight_row_stride, params.out_features, params.in_features,
                 first_feature, k, weight);
    __syncthreads();
#pragma unroll 8
    for (int j = 0; j < TILE; j++)
#pragma unroll
      for (int i = 0; i < TILE / TILE_WARPS; i++)
        sums[i] += input[threadIdx.y + i * TILE_WARPS][j] * weight[threadIdx.x][j];
    __syncthreads();
  }

  const int64_t feature = first_feature + threadIdx.x;
  if (feature >= params.out_features) return;
  const T *const bias = static_cast<const T *>(params.bias), *const residual =
                                                                 static_cast<const T *>(params.residual);
#pragma unroll
  for (int i = 0; i < TILE / TILE_WARPS; i++) {
    const int64_t row = first_row + threadIdx.y + i * TILE_WARPS;
    if (row >= params.rows) break;
    if (bias != NULL) sums[i] += ds_to_float(ds_load_element(bias + feature));
    if (residual != NULL)
      sums[i] += ds_to_float(ds_load_element(residual + row * params.residual_row_stride + feature));
    ds_round(sums[i], static_cast<T *>(params.output) + row * params.output_row_stride + feature);
  }
}

template <typename T>
ds_status launch(const ds_linear_params &params, void *stream) {
  const ds_blocks blocks = {params.rows, params.out_features, TILE, TILE, dim3(TILE, TILE_WARPS), 0};
  return ds_launch_blocks_early(op, linear_direct_kernel<T>, blocks, stream, params);
}

} // namespace

ds_status ds_linear_direct_cuda(const ds_linear_params *params, void *stream) {
  return ds_with_element(op, params->dtype, [&](auto element) {
    return launch<typename decltype(element)::type>(*params, stream);
  });
}
