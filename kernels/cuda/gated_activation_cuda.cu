// Gated activations: contract in ds_gated_activation_params.h. Every element is read and written once; where
// an NCHW-like input has its rows closer than its columns, it is turned in shared memory.
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "ds_cuda_tile.cuh"
#include "ds_gated_activations.cuh"
#include "ds_kernels_cuda.h"

namespace {

constexpr char op[] = "gated_activation";

// In PyTorch's order of operations, so that infinities and NaN come out alike. erff is within 2 units in the
// last place of float32, expf too, and the division is exact. With the 16-bit types that would take longer
// than the memory does.
template <typename T>
__device__ float gelu(float x) {
  constexpr float sqrt_half = 0.70710678118654752440f;
  if constexpr (sizeof(T) == 2) return ds_gelu_fast(x);
  return x * 0.5f * (1.0f + erff(x * sqrt_half));
}
template <typename T>
__device__ float silu(float x) {
  if constexpr (sizeof(T) == 2) return ds_silu_fast(x);
  return x / (1.0f + expf(-x));
}

// One branch for all, not one for each.
template <typename T, int COUNT>
__device__ void activate(ds_activation_type type, float (&gates)[COUNT]) {
  if (type == DS_ACTIVATION_GATED_GELU) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) gates[i] = gelu<T>(gates[i]);
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) gates[i] = silu<T>(gates[i]);
  }
}

// Accesses of a thread to each half: enough bytes in flight with the registers of a full multiprocessor.
template <int WIDTH>
constexpr int items_of = WIDTH == 1 ? 4 : 2;

template <typename T, int WIDTH>
__global__ void __launch_bounds__(256)
    gated_activation_kernel(const __grid_constant__ ds_gated_activation_params params, ds_origin origin) {
  constexpr int items = items_of<WIDTH>;
  const int64_t row = origin.row + (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
  const int64_t col_stride = WIDTH == 1 ? params.input.col_stride : 1;
  const T *const values = ds_row_address<const T>(params.input, row);
  const T *const gates = values + params.cols * col_stride;
  const T *const bias = static_cast<const T *>(params.bias);
  T *const output = static_cast<T *>(params.output) + row * params.cols;
  const int step = (int)blockDim.x * WIDTH;
  const int64_t first = origin.col + (int64_t)blockIdx.y * step * items + (int)threadIdx.x * WIDTH;

  ds_wait_for_stream();
  if (row >= params.rows) return;
  ds_pack<T, WIDTH> value_packs[items], gate_packs[items], value_biases[items], gate_biases[items];
#pragma unroll
  for (int i = 0; i < items; i++) {
    const int64_t col = first + i * step;
    value_packs[i] = ds_load_if<T, WIDTH>(col < params.cols, values + col * col_stride);
    gate_packs[i] = ds_load_if<T, WIDTH>(col < params.cols, gates + col * col_stride);
  }
  if (bias != NULL)
#pragma unroll
    for (int i = 0; i < items; i++) {
      const int64_t col = first + i * step;
      value_biases[i] = ds_load_if<T, WIDTH>(col < params.cols, bias + col);
      gate_biases[i] = ds_load_if<T, WIDTH>(col < params.cols, bias + params.cols + col);
    }

#pragma unroll
  for (int i = 0; i < items; i++) {
    const int64_t col = first + i * step;
    if (col >= params.cols) break;
    float value[WIDTH], gate[WIDTH];
    ds_unpack(value_packs[i], value);
    ds_unpack(gate_packs[i], gate);
    if (bias != NULL) {
      ds_add_pack(value_biases[i], value);
      ds_add_pack(gate_biases[i], gate);
    }
    activate<T>(params.activation_type, gate);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) value[j] *= gate[j];
    ds_store_floats(output + col, value);
  }
}

template <typename T>
__global__ void __launch_bounds__(DS_TILE_THREADS)
    gated_activation_tile_kernel(const __grid_constant__ ds_gated_activation_params params,
                                 ds_origin origin) {
  __shared__ ds_tile_values values, gates;
  __shared__ ds_tile_rows rows;
  const T *const bias = static_cast<const T *>(params.bias);
  ds_rows gate_view = params.input;
  gate_view.data = static_cast<T *>(params.input.data) + params.cols * params.input.col_stride;

  const ds_tile tile = ds_make_tile(origin, params.rows, params.cols);
  ds_locate_tile_rows(tile, params.input, rows);
  __syncthreads();
  ds_wait_for_stream();
  ds_read_tile<T, false>(tile, params.input, rows, true, bias, values);
  ds_read_tile<T, false>(tile, gate_view, rows, true, bias == NULL ? NULL : bias + params.cols, gates);
  __syncthreads();
  T *const output = static_cast<T *>(params.output) + tile.first_row * params.cols + tile.first_col;
  ds_move_tile(
      tile, false,
      [&](int row, int col) {
        float gate[1] = {gates[row][col]};
        activate<T>(params.activation_type, gate);
        return values[row][col] * gate[0];
      },
      [&](int row, int col, float value) { ds_round(value, output + row * params.cols + col); });
}

template <typename T, int WIDTH>
ds_status launch_elements(const ds_gated_activation_params &params, void *stream) {
  const ds_blocks blocks = ds_plan_element_blocks(params.rows, params.cols, WIDTH, items_of<WIDTH>);
  return ds_launch_blocks_early(op, gated_activation_kernel<T, WIDTH>, blocks, stream, params);
}

template <typename T>
ds_status launch(const ds_gated_activation_params &params, void *stream) {
  if (ds_rows_are_closer(params.input))
    return ds_launch_blocks_early(op, gated_activation_tile_kernel<T>,
                                  ds_plan_tiles(params.rows, params.cols), stream, params);
  const bool vectors = params.cols % ds_vector_width<T> == 0 && ds_is_aligned(params.input, sizeof(T)) &&
                       ds_is_aligned(params.bias) && ds_is_aligned(params.output);
  return vectors ? launch_elements<T, ds_vector_width<T>>(params, stream)
                 : launch_elements<T, 1>(params, stream);
}

} // namespace

ds_status ds_gated_activation_cuda(const ds_gated_activation_params *params, void *stream) {
  if (params->rows == 0 || params->cols == 0) return DS_OK;
  return ds_with_element(op, params->dtype, [&](auto element) {
    return launch<typename decltype(element)::type>(*params, stream);
  });
}
