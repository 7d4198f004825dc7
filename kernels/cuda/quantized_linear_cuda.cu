// A linear with an int8 weight: contract in ds_quantized_linear_params.h, method in
// quantized_linear_kernels.cuh.
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "ds_kernels_cuda.h"
#include "ds_tensor_map.cuh"
#include "quantized_linear_kernels.cuh"

namespace {

constexpr char op[] = "quantized_linear";

// With more rows it is faster to dequantise the weight for a kernel of larger tiles. The gated product is
// that of more output features.
constexpr int64_t MOST_GATED_ROWS = 512, MOST_PLAIN_ROWS = 256;

constexpr int DEPTH = 64, MOST_SPLITS = 8;

// How a product is cut: ROWS and WEIGHT_ROWS of quantized_linear_shape, and thread blocks for each tile.
struct form {
  int rows, weight_rows;
  int splits;
};

int64_t weight_rows_of(const ds_quantized_linear_params &params) {
  return ds_quantized_linear_is_gated(&params) ? 2 * params.cols : params.cols;
}

int64_t depth_blocks_of(const ds_quantized_linear_params &params) {
  return ds_ceil_div(params.in_features, DEPTH);
}

int64_t tiles_of(const ds_quantized_linear_params &params, form chosen) {
  return ds_ceil_div(params.rows, chosen.rows) * ds_ceil_div(weight_rows_of(params), chosen.weight_rows);
}

// The launch of `tiles` tiles, whose thread blocks are a cluster. All may start before the work ahead has
// ended.
template <class SHAPE>
struct tile_launch {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config;

  tile_launch(int64_t tiles, int splits, void *stream) {
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = DS_CUDA_EARLY_LAUNCH != 0;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = (unsigned)splits;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    config = {dim3((unsigned)(tiles * splits)),  dim3(SHAPE::THREADS), SHAPE::SHARED_BYTES,
              static_cast<cudaStream_t>(stream), attributes,           splits > 1 ? 2u : 1u};
  }
  tile_launch(const tile_launch &) = delete;
};

// How many clusters of so many thread blocks, each alone on a multiprocessor, the device runs at once: those
// of a cluster are neighbours, and not every neighbourhood is a multiple of four or eight.
ds_status clusters_at_once(const ds_cuda_device &device, int splits, int64_t *clusters) {
  static std::atomic<int> known[DS_CUDA_MAX_DEVICES][MOST_SPLITS + 1];
  *clusters = device.multiprocessors / splits;
  if (splits <= 2) return DS_OK;
  const bool has_place = device.index < DS_CUDA_MAX_DEVICES;
  int found = has_place ? known[device.index][splits].load(std::memory_order_relaxed) : 0;
  if (found == 0) {
    using shape = quantized_linear_shape<128, 80, false>;
    constexpr auto kernel = quantized_linear_kernel<__half, shape>;
    DS_CHECK((ds_allow_shared_bytes<kernel, shape::SHARED_BYTES>(op, device)));
    const tile_launch<shape> one(1, splits, NULL);
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&found, kernel, &one.config);
    if (error != cudaSuccess) return ds_cuda_error("cudaOccupancyMaxActiveClusters", error);
    if (has_place) known[device.index][splits].store(found, std::memory_order_relaxed);
  }
  *clusters = found;
  return DS_OK;
}

// An estimate, for comparison. Of a block of depth, bytes arrive at about 55 a clock; shared memory moves 128
// bytes a clock: what arrives, what is converted, and what the matrix units read, the weight once for each 64
// rows; they themselves are faster. A converting thread takes some hundreds of clocks for each of its pieces
// of 16 bytes. So do beginning and ending, and adding up what the thread blocks of a cluster have.
int64_t clocks_of(const ds_quantized_linear_params &params, form chosen, int64_t at_once) {
  const int64_t blocks = ds_ceil_div(depth_blocks_of(params), chosen.splits);
  const int64_t arriving = (2 * chosen.rows + chosen.weight_rows) * DEPTH;
  const int64_t converted = 3 * chosen.weight_rows * DEPTH;
  const int64_t multiplied = (2 * chosen.rows + chosen.rows / 64 * 2 * chosen.weight_rows) * DEPTH;
  const int64_t steps[] = {arriving / 55, (arriving + converted + multiplied) / 128,
                           200 + 350 * (chosen.weight_rows == 80 ? 1 : 3)};
  int64_t slowest = 0;
  for (const int64_t clocks : steps)
    if (clocks > slowest) slowest = clocks;
  const int64_t ending = chosen.weight_rows * chosen.rows / 16 + (chosen.splits > 1 ? 1500 : 0);
  return ds_ceil_div(tiles_of(params, chosen), at_once) * (blocks * slowest + 1500 + ending);
}

ds_status choose_form(const ds_quantized_linear_params &params, const ds_cuda_device &device, form *best) {
  int64_t best_clocks = INT64_MAX;
  for (int splits = 1; splits <= MOST_SPLITS && splits <= depth_blocks_of(params); splits *= 2) {
    int64_t at_once = 0;
    DS_CHECK(clusters_at_once(device, splits, &at_once));
    if (at_once == 0) continue;
    for (const int rows : {128, 256})
      for (const int weight_rows : {80, 160}) {
        const form possible = {rows, weight_rows, splits};
        const int64_t clocks = clocks_of(params, possible, at_once);
        if (clocks < best_clocks) *best = possible, best_clocks = clocks;
      }
  }
  return DS_OK;
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
  const tile_launch<SHAPE> tiled(tiles, splits, stream);
  return ds_launch_configured(op, kernel, tiled.config, input_map, weight_map, arguments);
}

template <typename T, bool GATED>
ds_status launch_form(const ds_quantized_linear_params &params, const ds_cuda_device &device, form chosen,
                      void *stream) {
  if (chosen.rows == 128)
    return chosen.weight_rows == 80
               ? launch<T, quantized_linear_shape<128, 80, GATED>>(params, device, chosen.splits, stream)
               : launch<T, quantized_linear_shape<128, 160, GATED>>(params, device, chosen.splits, stream);
  return chosen.weight_rows == 80
             ? launch<T, quantized_linear_shape<256, 80, GATED>>(params, device, chosen.splits, stream)
             : launch<T, quantized_linear_shape<256, 160, GATED>>(params, device, chosen.splits, stream);
}

// Outputs and residuals are accessed 8 bytes at a time.
bool is_accessible(const void *data, int64_t rows, int64_t row_stride) {
  return (uintptr_t)data % 8 == 0 && (rows == 1 || row_stride % 4 == 0);
}

bool has_kernel(const ds_quantized_linear_params &params) {
  const int64_t most_rows = ds_quantized_linear_is_gated(&params) ? MOST_GATED_ROWS : MOST_PLAIN_ROWS;
  return (params.dtype == DS_FLOAT16 || params.dtype == DS_BFLOAT16) && params.rows >= 1 &&
         params.rows <= most_rows && ds_can_map_size(params.in_features) && ds_can_map_size(params.cols) &&
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
  form chosen = {128, 80, 1};
  DS_CHECK(choose_form(*params, device, &chosen));
  return ds_with_16_bit_element(op, params->dtype, [&](auto element) {
    using type = typename decltype(element)::type;
    return ds_quantized_linear_is_gated(params) ? launch_form<type, true>(*params, device, chosen, stream)
                                                : launch_form<type, false>(*params, device, chosen, stream);
  });
}
