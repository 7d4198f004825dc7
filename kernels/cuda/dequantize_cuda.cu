// Quantised weights as what they stand for: contract in ds_dequantize_params.h. Bound by memory: every
// element is read and written once.
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "ds_kernels_cuda.h"

namespace {

constexpr char op[] = "dequantize";

// WIDTH neighbouring bytes, read as one.
template <int WIDTH>
struct byte_pack;
template <>
struct byte_pack<1> {
  using word = int8_t;
};
template <>
struct byte_pack<4> {
  using word = uint32_t;
};
template <>
struct byte_pack<8> {
  using word = uint2;
};

template <int WIDTH>
__device__ void to_floats(typename byte_pack<WIDTH>::word word, float (&values)[WIDTH]) {
  int8_t bytes[WIDTH];
  static_assert(sizeof word == sizeof bytes, "a word has a byte for each value");
  memcpy(bytes, &word, sizeof word);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) values[i] = (float)bytes[i];
}

// Accesses of a thread: enough bytes in flight, though each reads few.
constexpr int ITEMS = 4;

// GROUPED: rows have several scales.
template <typename T, int WIDTH, bool GROUPED>
__global__ void __launch_bounds__(256)
    dequantize_kernel(const __grid_constant__ ds_dequantize_params params, ds_origin origin) {
  using word = typename byte_pack<WIDTH>::word;
  const int64_t row = origin.row + (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
  const int step = (int)blockDim.x * WIDTH;
  const int64_t first = origin.col + (int64_t)blockIdx.y * step * ITEMS + (int)threadIdx.x * WIDTH;
  const int8_t *const weight = params.weight + row * params.weight_row_stride + first;
  const float *const scale = params.scale + row * params.groups;
  T *const output = static_cast<T *>(params.output) + row * params.cols + first;
  const int64_t group = GROUPED ? params.cols / params.groups : params.cols;

  // The work ahead has most likely left the weight alone: a hint, whatever that work does.
  constexpr int line_threads = DS_LINE_BYTES / WIDTH;
#pragma unroll
  for (int i = 0; i < ITEMS; i++)
    if (threadIdx.x % line_threads == 0 && row < params.rows && first + i * step < params.cols)
      ds_prefetch_line(weight + i * step);
  ds_wait_for_stream();
  word words[ITEMS] = {};
  float factors[ITEMS] = {};
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    const int64_t col = first + i * step;
    if (row >= params.rows || col >= params.cols) continue;
    words[i] = *reinterpret_cast<const word *>(weight + i * step);
    factors[i] = scale[GROUPED ? col / group : 0];
  }
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    if (row >= params.rows || first + i * step >= params.cols) continue;
    float values[WIDTH];
    to_floats<WIDTH>(words[i], values);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) values[j] *= factors[i];
    ds_store_floats(output + i * step, values);
  }
}

template <typename T, int WIDTH>
ds_status launch_width(const ds_dequantize_params &params, void *stream) {
  const ds_blocks blocks = ds_plan_element_blocks(params.rows, params.cols, WIDTH, ITEMS);
  return params.groups == 1
             ? ds_launch_blocks_early(op, dequantize_kernel<T, WIDTH, false>, blocks, stream, params)
             : ds_launch_blocks_early(op, dequantize_kernel<T, WIDTH, true>, blocks, stream, params);
}

template <typename T>
ds_status launch(const ds_dequantize_params &params, void *stream) {
  constexpr int width = ds_vector_width<T>;
  const bool vectors = params.cols / params.groups % width == 0 &&
                       (params.rows == 1 || params.weight_row_stride % width == 0) &&
                       (uintptr_t)params.weight % width == 0 && ds_is_aligned(params.output);
  return vectors ? launch_width<T, width>(params, stream) : launch_width<T, 1>(params, stream);
}

} // namespace

ds_status ds_dequantize_cuda(const ds_dequantize_params *params, void *stream) {
  if (params->rows == 0 || params->cols == 0) return DS_OK;
  return ds_with_element(op, params->dtype, [&](auto element) {
    return launch<typename decltype(element)::type>(*params, stream);
  });
}
