// A linear with an int8 weight: contract in ds_quantized_linear_params.h, method in
// quantized_linear_kernels.cuh.
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "ds_kernels_cuda.h"
#include "ds_tensor_map.cuh"
#include "quantized_linear_kernels.cuh"

namespace {

constexpr char op[] = "quantized_linear";

// From here on it is faster to dequantise the weight for a kernel of larger tiles.
constexpr int64_t MOST_ROWS = 256;

constexpr int TILE_ROWS = 128, DEPTH = 64, MOST_SPLITS = 8;

// How a product is cut: WEIGHT_ROWS of quantized_linear_shape, and thread blocks for each tile.
struct form {
  int weight_rows;
  int splits;
};

int64_t weight_rows_of(const ds_quantized_linear_params &params) {
  return ds_quantized_linear_is_gated(&params) ? 2 * params.cols : params.cols;
}

int64_t depth_blocks_of(const ds_quantized_linear_params &params) {
  return ds_ceil_div(params.in_features, DEPTH);
}

int64_t tiles_of(const ds_quantized_linear_params &params, int weight_rows) {
  return ds_ceil_div(params.rows, TILE_ROWS) * ds_ceil_div(weight_rows_of(params), weight_rows);
}

// An estimate, for comparison. A block of depth takes the matrix units 4 clocks for each row of the weight,
// and its bytes arrive at about 55 a clock; beginning and ending take some hundreds, adding up what the
// thread blocks of a cluster have, too.
int64_t clocks_of(const ds_quantized_linear_params &params, const ds_cuda_device &device, form chosen) {
  const int64_t waves =
      ds_ceil_div(tiles_of(params, chosen.weight_rows) * chosen.splits, device.multiprocessors);
  const int64_t blocks = ds_ceil_div(depth_blocks_of(params), chosen.splits);
  const int64_t multiplying = 4 * chosen.weight_rows,
                copying = (TILE_ROWS * 2 + chosen.weight_rows) * DEPTH / 55;
  const int64_t ending = 8 * chosen.weight_rows + (chosen.splits > 1 ? 1500 : 0);
  return waves * (blocks * (multiplying > copying ? multiplying : copying) + 1500 + ending);
}

form choose_form(const ds_quantized_linear_params &params, const ds_cuda_device &device) {
  form best = {80, 1};
  int64_t best_clocks = INT64_MAX;
  for (const int weight_rows : {80, 160})
    for (int splits = 1; splits <= MOST_SPLITS && splits <= depth_blocks_of(params); splits *= 2) {
      const int64_t clocks = clocks_of(params, device, {weight_rows, splits});
      if (clocks < best_clocks) best = {weight_rows, splits}, best_clocks = clocks;
    }
  return best;
}

template <class SHAPE>
ds_status make_maps(const ds_quantized_linear_params &params, CUtensorMap *input, CUtensorMap *weight) {
  // The stride of a dimension of one means nothing and need not suit the copy engine.
  const int64_t input_stride =
      params.rows > 1 ? params.input_row_stride : ds_ceil_div(params.in_features, 8) * 8;
  DS_CHECK(ds_make_tensor_map<2>(
      op, input, params.dtype, params.input,
      {{params.in_features, params.rows}, {input_stride}, {SHAPE::DEPTH, SHAPE::ROWS}}));
  // Values and gates are a dimension of their own: what a tile has beyond the last value is not a gate.
  return ds_make_tensor_map<3>(op, weight, DS_INT8, params.weight,
                               {{params.in_features, params.cols, SHAPE::HALVES},
                                {params.weight_row_stride, params.cols * params.weight_row_stride},
                                {SHAPE::DEPTH, SHAPE::COLS, SHAPE::HALVES}},
                               false);
}

// The thread blocks of a tile are a cluster. All may start before the work ahead has ended.
template <typename T, class SHAPE>
ds_status launch(const ds_quantized_linear_params &params, const ds_cuda_device &device, int splits,
                 void *stream) {
  constexpr auto kernel = quantized_linear_kernel<T, SHAPE>;
  CUtensorMap input_map, weight_map;
  DS_CHECK(make_maps<SHAPE>(params, &input_map, &weight_map));
  DS_CHECK((ds_allow_shared_bytes<kernel, SHAPE::SHARED_BYTES>(op, device)));
  quantized_linear_arguments arguments;
  arguments.scale = params.scale;
  arguments.bias = params.bias;
  arguments.residual = params.residual;
  arguments.residual_row_stride = params.residual_row_stride;
  arguments.output = params.output;
  arguments.output_row_stride = params.output_row_stride;
  arguments.rows = (int)params.rows;
  arguments.cols = (int)params.cols;
  arguments.row_tiles = (int)ds_ceil_div(params.rows, SHAPE::ROWS);
  arguments.depth_blocks = (int)depth_blocks_of(params);
  arguments.splits = splits;
  arguments.silu = params.gate == DS_ACTIVATION_GATED_SILU;

  const int64_t tiles = arguments.row_tiles * ds_ceil_div(params.cols, SHAPE::COLS);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = DS_CUDA_EARLY_LAUNCH != 0;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = (unsigned)splits;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  const cudaLaunchConfig_t config = {
      dim3((unsigned)(tiles * splits)),  dim3(SHAPE::THREADS), SHAPE::SHARED_BYTES,
      static_cast<cudaStream_t>(stream), attributes,           splits > 1 ? 2u : 1u};
  return ds_launch_configured(op, kernel, config, input_map, weight_map, arguments);
}

template <typename T, bool GATED>
ds_status launch_form(const ds_quantized_linear_params &params, const ds_cuda_device &device, form chosen,
                      void *stream) {
  return chosen.weight_rows == 80
             ? launch<T, quantized_linear_shape<80, GATED>>(params, device, chosen.splits, stream)
             : launch<T, quantized_linear_shape<160, GATED>>(params, device, chosen.splits, stream);
}

// Outputs and residuals are accessed 8 bytes at a time.
bool is_accessible(const void *data, int64_t rows, int64_t row_stride) {
  return (uintptr_t)data % 8 == 0 && (rows == 1 || row_stride % 4 == 0);
}

bool has_kernel(const ds_quantized_linear_params &params) {
  return (params.dtype == DS_FLOAT16 || params.dtype == DS_BFLOAT16) && params.rows >= 1 &&
         params.rows <= MOST_ROWS && ds_can_map_size(params.in_features) && ds_can_map_size(params.cols) &&
         params.cols % 4 == 0 && ds_is_aligned(params.input) &&
         (params.rows == 1 || ds_can_map_stride(params.input_row_stride)) && ds_is_aligned(params.weight) &&
         params.weight_row_stride % 16 == 0 && ds_can_map_stride(params.weight_row_stride) &&
         ds_can_map_halves(params.cols, params.weight_row_stride) &&
         is_accessible(params.output, params.rows, params.output_row_stride) &&
         (params.residual == NULL || is_accessible(params.residual, params.rows, params.residual_row_stride));
}

} // namespace

int ds_quantized_linear_serves_cuda(const ds_quantized_linear_params *params) {
  ds_cuda_device device;
  return has_kernel(*params) && ds_cuda_current_device(&device) == DS_OK && device.code == DS_CUDA_CODE_90A &&
         ds_encode_tiled() != NULL;
}

ds_status ds_quantized_linear_cuda(const ds_quantized_linear_params *params, void *stream) {
  ds_cuda_device device;
  DS_CHECK(ds_cuda_current_device(&device));
  const form chosen = choose_form(*params, device);
  return ds_with_16_bit_element(op, params->dtype, [&](auto element) {
    using type = typename decltype(element)::type;
    return ds_quantized_linear_is_gated(params) ? launch_form<type, true>(*params, device, chosen, stream)
                                                : launch_form<type, false>(*params, device, chosen, stream);
  });
}
