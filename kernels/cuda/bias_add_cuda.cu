// Bias and residual sums: contract in ds_bias_add_params.h. Every element is read and written once.
//
// Where columns are contiguous, threads run along them. NCHW tensors, in which pixels are contiguous and
// channels far apart, are the same problem with the two directions exchanged: then a row has one channel and
// one bias. Where operands lie in different directions, tiles of them are turned in shared memory.
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "ds_cuda_tile.cuh"
#include "ds_kernels_cuda.h"

namespace {

constexpr char op[] = "bias_add";

// The views of `params`, perhaps with the directions exchanged.
struct bias_add_problem {
  ds_bias_add_params params;
  int64_t bias_row_period; // 0: a bias for each column; else bias[row % period] for all of a row
};

// Accesses of a thread to each operand.
template <int WIDTH>
constexpr int items_of = WIDTH == 1 ? 4 : 2;

// The bias of a thread's accesses: of each column, or one of the whole row (`channel` is not -1).
template <typename T, int WIDTH>
struct thread_bias {
  const T *elements; // NULL: none
  int64_t channel;
  ds_pack<T, WIDTH> columns[items_of<WIDTH>];
  float row;

  __device__ thread_bias(const void *bias, int64_t channel)
      : elements(static_cast<const T *>(bias)), channel(channel) {}

  __device__ void load_row() {
    if (elements != NULL && channel >= 0) row = ds_to_float(ds_load_element(elements + channel));
  }

  __device__ void load_columns(int item, bool inside, int64_t col) {
    if (elements != NULL && channel < 0) columns[item] = ds_load_if<T, WIDTH>(inside, elements + col);
  }

  __device__ void add(int item, float (&values)[WIDTH]) const {
    if (elements == NULL) return;
    if (channel < 0) {
      ds_add_pack(columns[item], values);
    } else {
#pragma unroll
      for (int i = 0; i < WIDTH; i++) values[i] += row;
    }
  }
};

template <typename T, int WIDTH>
__global__ void __launch_bounds__(256)
    bias_add_kernel(const __grid_constant__ bias_add_problem problem, ds_origin origin) {
  constexpr int items = items_of<WIDTH>;
  const ds_bias_add_params &params = problem.params;
  const int64_t row = origin.row + (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
  const T *const input = ds_row_address<const T>(params.input, row);
  const T *const other = ds_row_address<const T>(params.other, row);
  T *const output = ds_row_address<T>(params.output, row);
  const int64_t channel = problem.bias_row_period == 0 ? -1 : row % problem.bias_row_period;
  const int64_t input_stride = WIDTH == 1 ? params.input.col_stride : 1;
  const int64_t other_stride = WIDTH == 1 ? params.other.col_stride : 1;
  const int64_t output_stride = WIDTH == 1 ? params.output.col_stride : 1;
  const int step = (int)blockDim.x * WIDTH;
  const int64_t first = origin.col + (int64_t)blockIdx.y * step * items + (int)threadIdx.x * WIDTH;
  thread_bias<T, WIDTH> bias(params.bias, channel), other_bias(params.other_bias, channel);

  ds_wait_for_stream();
  if (row >= params.rows) return;
  ds_pack<T, WIDTH> input_packs[items], other_packs[items];
#pragma unroll
  for (int i = 0; i < items; i++) {
    const int64_t col = first + i * step;
    input_packs[i] = ds_load_if<T, WIDTH>(col < params.cols, input + col * input_stride);
    if (other != NULL) other_packs[i] = ds_load_if<T, WIDTH>(col < params.cols, other + col * other_stride);
  }
  bias.load_row();
  other_bias.load_row();
#pragma unroll
  for (int i = 0; i < items; i++) {
    const int64_t col = first + i * step;
    bias.load_columns(i, col < params.cols, col);
    other_bias.load_columns(i, col < params.cols, col);
  }

#pragma unroll
  for (int i = 0; i < items; i++) {
    const int64_t col = first + i * step;
    if (col >= params.cols) break;
    float sum[WIDTH];
    ds_unpack(input_packs[i], sum);
    bias.add(i, sum);
    if (other != NULL) {
      float addend[WIDTH];
      ds_unpack(other_packs[i], addend);
      other_bias.add(i, addend);
#pragma unroll
      for (int j = 0; j < WIDTH; j++) sum[j] += addend[j];
    }
    ds_store_floats(output + col * output_stride, sum);
  }
}

template <typename T>
__global__ void __launch_bounds__(DS_TILE_THREADS)
    bias_add_tile_kernel(const __grid_constant__ ds_bias_add_params params, ds_origin origin) {
  __shared__ ds_tile_values values;
  __shared__ ds_tile_rows input_rows, other_rows, output_rows;
  const ds_tile tile = ds_make_tile(origin, params.rows, params.cols);
  ds_locate_tile_rows(tile, params.input, input_rows);
  ds_locate_tile_rows(tile, params.other, other_rows);
  ds_locate_tile_rows(tile, params.output, output_rows);
  __syncthreads();
  ds_wait_for_stream();
  ds_read_tile<T, false>(tile, params.input, input_rows, ds_rows_are_closer(params.input),
                         static_cast<const T *>(params.bias), values);
  if (params.other.data != NULL) {
    __syncthreads();
    ds_read_tile<T, true>(tile, params.other, other_rows, ds_rows_are_closer(params.other),
                          static_cast<const T *>(params.other_bias), values);
  }
  __syncthreads();
  T *const output = static_cast<T *>(params.output.data) + tile.first_col * params.output.col_stride;
  ds_move_tile(
      tile, ds_rows_are_closer(params.output), [&](int row, int col) { return values[row][col]; },
      [&](int row, int col, float value) {
        ds_round(value, output + output_rows.offsets[row] + col * params.output.col_stride);
      });
}

// ---- choice ----

// Whether all operands have the same innermost dimension of rows, closer than the columns.
bool is_exchangeable(const ds_bias_add_params &params) {
  const ds_rows *const views[] = {&params.input, &params.other, &params.output};
  const int64_t inner = params.input.sizes[params.input.dims - 1];
  for (const ds_rows *view : views)
    if (view->data != NULL && (view->sizes[view->dims - 1] != inner || !ds_rows_are_closer(*view)))
      return false;
  return true;
}

// The columns become the innermost dimension of rows, and that one the columns: both innermost dimensions are
// merged into one with the others where they lie regularly, as in a contiguous tensor.
void exchange(ds_rows *view, int64_t cols) {
  if (view->data == NULL) return;
  const int last = view->dims - 1;
  const int64_t channel_stride = view->col_stride;
  view->col_stride = view->strides[last];
  if (last > 0 && view->strides[last - 1] == cols * channel_stride) {
    view->sizes[last - 1] *= cols;
    view->strides[last - 1] = channel_stride;
    view->dims--;
  } else {
    view->sizes[last] = cols;
    view->strides[last] = channel_stride;
  }
}

bias_add_problem exchange_directions(const ds_bias_add_params &params) {
  const int64_t inner = params.input.sizes[params.input.dims - 1];
  bias_add_problem problem = {params, params.cols};
  exchange(&problem.params.input, params.cols);
  exchange(&problem.params.other, params.cols);
  exchange(&problem.params.output, params.cols);
  problem.params.rows = params.rows / inner * params.cols;
  problem.params.cols = inner;
  return problem;
}

template <typename T, int WIDTH>
ds_status launch_elements(const bias_add_problem &problem, void *stream) {
  const ds_bias_add_params &params = problem.params;
  const ds_blocks blocks = ds_plan_element_blocks(params.rows, params.cols, WIDTH, items_of<WIDTH>);
  return ds_launch_blocks_early(op, bias_add_kernel<T, WIDTH>, blocks, stream, problem);
}

template <typename T>
ds_status launch_along_columns(const bias_add_problem &problem, void *stream) {
  const ds_bias_add_params &params = problem.params;
  const bool biases =
      problem.bias_row_period != 0 || (ds_is_aligned(params.bias) && ds_is_aligned(params.other_bias));
  const bool vectors = biases && params.cols % ds_vector_width<T> == 0 &&
                       ds_is_aligned(params.input, sizeof(T)) && ds_is_aligned(params.other, sizeof(T)) &&
                       ds_is_aligned(params.output, sizeof(T));
  return vectors ? launch_elements<T, ds_vector_width<T>>(problem, stream)
                 : launch_elements<T, 1>(problem, stream);
}

template <typename T>
ds_status launch(const ds_bias_add_params &params, void *stream) {
  if (is_exchangeable(params)) return launch_along_columns<T>(exchange_directions(params), stream);
  if (ds_rows_are_closer(params.input) || ds_rows_are_closer(params.other) ||
      ds_rows_are_closer(params.output))
    return ds_launch_blocks_early(op, bias_add_tile_kernel<T>, ds_plan_tiles(params.rows, params.cols),
                                  stream, params);
  return launch_along_columns<T>({params, 0}, stream);
}

} // namespace

ds_status ds_bias_add_cuda(const ds_bias_add_params *params, void *stream) {
  if (params->rows == 0 || params->cols == 0) return DS_OK;
  return ds_with_element(op, params->dtype, [&](auto element) {
    return launch<typename decltype(element)::type>(*params, stream);
  });
}
