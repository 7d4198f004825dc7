// Square tiles of rows and columns in shared memory, for element-wise kernels whose operands lie in different
// directions: each is read or written with neighbouring threads at neighbouring addresses.
#ifndef DS_CUDA_TILE_CUH
#define DS_CUDA_TILE_CUH

#include "ds_cuda_launch.cuh"

constexpr int DS_TILE_SIZE = 64;
constexpr int DS_TILE_THREADS = 256; // in x

// One column of padding: down a column as along a row, neighbouring elements are in different banks.
typedef float ds_tile_values[DS_TILE_SIZE][DS_TILE_SIZE + 1];

// Where a tile lies, and how much of it exists.
struct ds_tile {
  int64_t first_row;
  int64_t first_col;
  int rows;
  int cols;
};

// This block's tile.
__device__ inline ds_tile ds_make_tile(const ds_origin &origin, int64_t rows, int64_t cols) {
  const int64_t row = origin.row + (int64_t)blockIdx.x * DS_TILE_SIZE;
  const int64_t col = origin.col + (int64_t)blockIdx.y * DS_TILE_SIZE;
  return {row, col, (int)min(rows - row, (int64_t)DS_TILE_SIZE), (int)min(cols - col, (int64_t)DS_TILE_SIZE)};
}

static inline ds_blocks ds_plan_tiles(int64_t rows, int64_t cols) {
  return {rows, cols, DS_TILE_SIZE, DS_TILE_SIZE, dim3(DS_TILE_THREADS), 0};
}

// An operand of the tile: the offset of each of its rows is worked out once, as that may take several
// divisions.
struct ds_tile_rows {
  int64_t offsets[DS_TILE_SIZE];
};

// Every thread of the block comes here, and waits for the others before it uses the result.
__device__ inline void ds_locate_tile_rows(const ds_tile &tile, const ds_rows &view, ds_tile_rows &rows) {
  if (view.data != NULL && threadIdx.x < tile.rows)
    rows.offsets[threadIdx.x] = ds_rows_offset(&view, tile.first_row + threadIdx.x);
}

// Calls put(row, col, take(row, col)) for each element of the tile once, from some thread; neighbouring
// threads have neighbouring rows or neighbouring columns. Several elements are taken before the first is put,
// so that their loads are under way together; past the last row or column that takes it again.
template <typename Take, typename Put>
__device__ inline void ds_move_tile(const ds_tile &tile, bool over_rows, Take take, Put put) {
  constexpr int batch = 8, step = DS_TILE_THREADS / DS_TILE_SIZE;
  const int fast = threadIdx.x % DS_TILE_SIZE, fast_size = over_rows ? tile.rows : tile.cols;
  const int slow_size = over_rows ? tile.cols : tile.rows;
  if (fast >= fast_size) return;
  for (int slow = threadIdx.x / DS_TILE_SIZE; slow < slow_size; slow += batch * step) {
    float taken[batch];
#pragma unroll
    for (int i = 0; i < batch; i++) {
      const int line = min(slow + i * step, slow_size - 1);
      taken[i] = take(over_rows ? fast : line, over_rows ? line : fast);
    }
#pragma unroll
    for (int i = 0; i < batch; i++) {
      const int line = slow + i * step;
      if (line < slow_size) put(over_rows ? fast : line, over_rows ? line : fast, taken[i]);
    }
  }
}

// Sets or adds an operand's elements plus its bias, of which a NULL is left out.
template <typename T, bool ADD>
__device__ void ds_read_tile(const ds_tile &tile, const ds_rows &view, const ds_tile_rows &rows,
                             bool over_rows, const T *bias, ds_tile_values &values) {
  const T *const data = static_cast<const T *>(view.data) + tile.first_col * view.col_stride;
  ds_move_tile(
      tile, over_rows,
      [&](int row, int col) {
        const float value = ds_to_float(ds_load_element(data + rows.offsets[row] + col * view.col_stride));
        return bias == NULL ? value : value + ds_to_float(ds_load_element(bias + tile.first_col + col));
      },
      [&](int row, int col, float value) { values[row][col] = ADD ? values[row][col] + value : value; });
}

#endif
