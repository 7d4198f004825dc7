// Layer normalisation with the sum in front of it: contract in ds_layer_norm_params.h.
//
// Three kernels, all of which read an activation once for mean, variance and result:
//   vectors  rows of aligned 16-byte accesses, held in registers by as many threads as that takes: a part of
//            a warp for 320 columns, a block for thousands;
//   columns  rows of any stride and alignment, held in shared memory, one element an access;
//   tiles    where neighbouring rows lie closer than neighbouring columns (an NCHW tensor seen as
//            [pixels, channels]): lanes run over rows to read, and the sums are turned in shared memory.
// Rows too long to be held, of which there are more than 16384 columns, are read again for each step.
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "ds_cuda_reduce.cuh"
#include "ds_kernels_cuda.h"

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

// ---- vectors ----

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

// ---- sums in shared memory ----

// Sets or adds `cols` elements at `address` to sums: of these, columns first, first + step, … are this
// thread's. BATCH loads are issued together; past the last column, it is read again.
template <typename T, int BATCH, bool ADD>
__device__ void read_columns(float *sums, const T *address, int64_t col_stride, int cols, int first,
                             int step) {
  for (int col = first; col < cols; col += BATCH * step) {
    T loaded[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) loaded[i] = __ldg(address + min(col + i * step, cols - 1) * col_stride);
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
      const float factor = gamma == NULL ? 1.0f : ds_to_float(__ldg(gamma + begin + col));
      const float addend = beta == NULL ? 0.0f : ds_to_float(__ldg(beta + begin + col));
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

// ---- columns ----

constexpr int COLUMN_ITEMS = 16; // of a thread, as long as the block may grow
constexpr int COLUMN_BATCH = 8;
constexpr int COLUMN_MAX_THREADS = 1024;
constexpr int COLUMN_MAX_COLS = 16384;
// 64 KB: GPUs from compute capability 8.0 on give a block that much.
constexpr size_t COLUMN_MAX_BYTES = COLUMN_MAX_COLS * sizeof(float);

struct row_sums {
  float *partial_sums;
  ds_moments *partial_moments;
  __device__ float operator()(float value) const { return ds_sum_row(value, partial_sums); }
  __device__ ds_moments operator()(ds_moments value) const { return ds_sum_row(value, partial_moments); }
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
  return ds_launch_blocks(op, layer_norm_columns_kernel<T>, blocks, stream, params);
}

// ---- tiles ----

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
  return ds_launch_blocks(op, layer_norm_tiles_kernel<T>, blocks, stream, params);
}

// ---- choice ----

template <typename T>
ds_status launch(const ds_layer_norm_params &params, void *stream) {
  if (ds_rows_are_closer(params.input)) return launch_tiles<T>(params, stream);
  return allows_vectors<T>(params) ? launch_vectors<T>(params, stream) : launch_columns<T>(params, stream);
}

} // namespace

ds_status ds_layer_norm_cuda(const ds_layer_norm_params *params, void *stream) {
  if (params->rows == 0) return DS_OK;
  return ds_with_element(op, params->dtype, [&](auto element) {
    return launch<typename decltype(element)::type>(*params, stream);
  });
}
