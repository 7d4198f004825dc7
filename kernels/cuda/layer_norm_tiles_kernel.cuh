// layer_norm where neighbouring rows lie closer than neighbouring columns (an NCHW tensor seen as
// [pixels, channels]): lanes run over rows to read, and the sums are turned in shared memory.
#ifndef DS_LAYER_NORM_TILES_KERNEL_CUH
#define DS_LAYER_NORM_TILES_KERNEL_CUH

#include "layer_norm_shared_rows.cuh"

namespace {

// A block takes 16 rows. To read, thread t has row t % 16 and every 32nd column, so that the block reads
// neighbouring columns of neighbouring rows at the same time, one cache sector of 16-bit elements an access.
// From there on a warp has a row, with lanes over its columns.
constexpr int TILE_ROWS = 16;
constexpr int TILE_THREADS = TILE_ROWS * DS_WARP;
constexpr int TILE_SLOTS = TILE_THREADS / TILE_ROWS;
constexpr int TILE_BATCH = 10; // 320, 640 and 1280 columns are one, two and four batches of the slots
constexpr int TILE_MAX_COLS = 1280;

// Floats from one row of the tile to the next: the 16 rows and two columns that a warp writes at once are in
// banks of their own.
__host__ __device__ constexpr int tile_pitch(int cols) {
  return (cols + DS_WARP - 1) / DS_WARP * DS_WARP + 2;
}

// 82 KB: GPUs from compute capability 8.0 on give a block that much.
constexpr size_t TILE_MAX_BYTES = TILE_ROWS * tile_pitch(TILE_MAX_COLS) * sizeof(float);

template <typename T>
__global__ void __launch_bounds__(TILE_THREADS)
    layer_norm_tiles_kernel(const __grid_constant__ ds_layer_norm_params params, ds_origin origin) {
  extern __shared__ float sums[];
  const int part_cols = (int)min(params.cols, (int64_t)TILE_MAX_COLS), pitch = tile_pitch(part_cols);
  const int64_t first_row = origin.row + (int64_t)blockIdx.x * TILE_ROWS;

  const int tile_row = threadIdx.x % TILE_ROWS, slot = threadIdx.x / TILE_ROWS;
  const bool reads = first_row + tile_row < params.rows;
  const row_operands<T> operands = locate_row<T>(params, reads ? first_row + tile_row : first_row);

  const int lane = threadIdx.x % DS_WARP, warp = threadIdx.x / DS_WARP;
  ds_wait_for_stream();
  normalise_row<T>(
      params, first_row + warp, first_row + warp < params.rows, part_cols, sums + warp * pitch, lane, DS_WARP,
      [&](int64_t begin, int cols) {
        __syncthreads(); // the tile may still be in use
        if (reads) read_sums<T, TILE_BATCH>(sums + tile_row * pitch, operands, begin, cols, slot, TILE_SLOTS);
        __syncthreads();
      },
      [](auto value) { return ds_sum_lanes(value, DS_WARP); });
}

template <typename T>
ds_status launch_tiles(const ds_layer_norm_params &params, void *stream) {
  const int part_cols = (int)ds_min(params.cols, TILE_MAX_COLS);
  const size_t shared_bytes = (size_t)TILE_ROWS * tile_pitch(part_cols) * sizeof(float);
  ds_cuda_device device;
  DS_CHECK(ds_cuda_current_device(&device));
  DS_CHECK((ds_allow_shared_bytes<layer_norm_tiles_kernel<T>, TILE_MAX_BYTES>(op, device)));
  const ds_blocks blocks = {params.rows, 1, TILE_ROWS, 1, dim3(TILE_THREADS), shared_bytes};
  return ds_launch_blocks_early(op, layer_norm_tiles_kernel<T>, blocks, stream, params);
}

} // namespace

#endif
