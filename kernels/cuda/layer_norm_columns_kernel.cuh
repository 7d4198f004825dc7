// layer_norm of rows of any stride and alignment.
#ifndef DS_LAYER_NORM_COLUMNS_KERNEL_CUH
#define DS_LAYER_NORM_COLUMNS_KERNEL_CUH

#include "layer_norm_shared_rows.cuh"

namespace {

constexpr int COLUMN_ITEMS = 16; // of a thread, as long as the block may grow
constexpr int COLUMN_BATCH = 8;
constexpr int COLUMN_MAX_THREADS = 1024;
constexpr int COLUMN_MAX_COLS = 16384;
// 64 KB: GPUs from compute capability 8.0 on give a block that much.
constexpr size_t COLUMN_MAX_BYTES = COLUMN_MAX_COLS * sizeof(float);

struct row_sums {
  float *partial_sums;
  ds_moments *partial_moments;
  __device__ float operator()(float value) const { return ds_sum_row<0>(value, partial_sums); }
  __device__ ds_moments operator()(ds_moments value) const { return ds_sum_row<0>(value, partial_moments); }
};

// A thread has its columns of the sums to itself throughout, so they need no barrier.
template <typename T>
__global__ void __launch_bounds__(COLUMN_MAX_THREADS)
    layer_norm_columns_kernel(const __grid_constant__ ds_layer_norm_params params, ds_origin origin) {
  extern __shared__ float sums[];
  __shared__ float partial_sums[DS_WARP];
  __shared__ ds_moments partial_moments[DS_WARP];
  const block_row place(origin, params.rows);
  const row_operands<T> operands = locate_row<T>(params, place.row);
  const int part_cols = (int)min(params.cols, (int64_t)COLUMN_MAX_COLS);
  const int first = threadIdx.x, step = blockDim.x;
  float *const own = sums + threadIdx.y * part_cols;
  const row_sums add_up = {partial_sums, partial_moments};
  ds_wait_for_stream();
  normalise_row<T>(
      params, place.row, place.inside, part_cols, own, first, step,
      [&](int64_t begin, int cols) { read_sums<T, COLUMN_BATCH>(own, operands, begin, cols, first, step); },
      add_up);
}

template <typename T>
ds_status launch_columns(const ds_layer_norm_params &params, void *stream) {
  const dim3 block = row_block(ds_ceil_div(params.cols, COLUMN_ITEMS), COLUMN_MAX_THREADS);
  const size_t shared_bytes = block.y * (size_t)ds_min(params.cols, COLUMN_MAX_COLS) * sizeof(float);
  ds_cuda_device device;
  DS_CHECK(ds_cuda_current_device(&device));
  DS_CHECK((ds_allow_shared_bytes<layer_norm_columns_kernel<T>, COLUMN_MAX_BYTES>(op, device)));
  const ds_blocks blocks = {params.rows, 1, block.y, 1, block, shared_bytes};
  return ds_launch_blocks_early(op, layer_norm_columns_kernel<T>, blocks, stream, params);
}

} // namespace

#endif
