// A linear and the gated activation of its result, as one kernel: contract in ds_gated_linear_params.h,
// method in gated_linear_kernels.cuh.
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "ds_kernels_cuda.h"
#include "ds_tensor_map.cuh"
#include "gated_linear_kernels.cuh"

namespace {

constexpr char op[] = "gated_linear";

// How the tiles of a product are run.
struct tile_order {
  int lead;  // blocks of depth by which a tile's first warpgroup is ahead of its second
  int group; // rows of tiles that follow each other before the next column
};

// The stride of a dimension of one means nothing and need not suit the copy engine.
int64_t stride_of(int64_t size, int64_t stride, int64_t row) {
  return size > 1 ? stride : ds_ceil_div(row, 8) * 8;
}

template <class SHAPE>
ds_status make_maps(const ds_gated_linear_params &params, CUtensorMap *input, CUtensorMap *weight,
                    CUtensorMap *output) {
  const int64_t input_stride = stride_of(params.rows, params.input_row_stride, params.in_features);
  const int64_t output_stride = stride_of(params.rows, params.output_row_stride, params.cols);
  DS_CHECK(ds_make_tensor_map<2>(
      op, input, params.dtype, params.input,
      {{params.in_features, params.rows}, {input_stride}, {SHAPE::DEPTH, SHAPE::INPUT_ROWS}}));
  // Values and gates are a dimension of their own: what a tile has beyond the last value is not a gate.
  DS_CHECK(ds_make_tensor_map<3>(op, weight, params.dtype, params.weight,
                                 {{params.in_features, params.cols, 2},
                                  {params.weight_row_stride, params.cols * params.weight_row_stride},
                                  {SHAPE::DEPTH, SHAPE::COLS, SHAPE::WEIGHT_HALVES}}));
  return ds_make_tensor_map<2>(op, output, params.dtype, params.output,
                               {{params.cols, params.rows}, {output_stride}, {SHAPE::PIECE_COLS, 64}},
                               SHAPE::SWIZZLED);
}

// Launches `clusters` clusters of SHAPE::CLUSTER thread blocks, which may start before the work ahead has
// ended.
template <typename T, class SHAPE>
ds_status launch_clusters(const ds_cuda_device &device, int64_t clusters, void *stream,
                          const CUtensorMap &input, const CUtensorMap &weight, const CUtensorMap &output,
                          const gated_linear_arguments &arguments) {
  constexpr auto kernel = gated_linear_kernel<T, SHAPE>;
  DS_CHECK((ds_allow_shared_bytes<kernel, SHAPE::SHARED_BYTES>(op, device)));
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = DS_CUDA_EARLY_LAUNCH != 0;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = SHAPE::CLUSTER;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  const cudaLaunchConfig_t config = {
      dim3((unsigned)(clusters * SHAPE::CLUSTER)), dim3(SHAPE::THREADS), SHAPE::SHARED_BYTES,
      static_cast<cudaStream_t>(stream),           attributes,           SHAPE::CLUSTER > 1 ? 2u : 1u};
  return ds_launch_configured(op, kernel, config, input, weight, output, arguments);
}

// The blocks of depth by which a tile's first warpgroup runs ahead, `wanted` if possible. It must announce
// its lead once in each tile, and not before the other warpgroup has begun that tile: that one is behind by
// the stages at most.
template <class SHAPE>
int lead_of(int wanted, int depth_blocks) {
  static_assert(SHAPE::STAGES >= 4, "the lead is less than the stages");
  const int least = SHAPE::STAGES - depth_blocks + 1, lead = wanted > least ? wanted : least;
  return wanted > 0 && lead <= depth_blocks ? lead : 0;
}

// As many thread blocks as there are multiprocessors take turns at the tiles.
template <typename T, class SHAPE>
ds_status launch(const ds_gated_linear_params &params, const ds_cuda_device &device, tile_order order,
                 void *stream) {
  CUtensorMap input_map, weight_map, output_map;
  DS_CHECK(make_maps<SHAPE>(params, &input_map, &weight_map, &output_map));
  gated_linear_arguments arguments;
  arguments.bias = params.bias;
  arguments.cols = (int)params.cols;
  arguments.depth_blocks = (int)ds_ceil_div(params.in_features, SHAPE::DEPTH);
  arguments.row_clusters = (int)ds_ceil_div(params.rows, SHAPE::ROWS * SHAPE::CLUSTER_ROWS);
  arguments.col_clusters = (int)ds_ceil_div(params.cols, SHAPE::COLS * SHAPE::CLUSTER_COLS);
  arguments.group = (int)ds_min(order.group, arguments.row_clusters);
  arguments.lead = lead_of<SHAPE>(order.lead, arguments.depth_blocks);
  arguments.silu = params.activation_type == DS_ACTIVATION_GATED_SILU;
  const int64_t clusters = ds_min((int64_t)arguments.row_clusters * arguments.col_clusters,
                                  device.multiprocessors / SHAPE::CLUSTER);
  return launch_clusters<T, SHAPE>(device, clusters, stream, input_map, weight_map, output_map, arguments);
}

int64_t tiles_of(const ds_gated_linear_params &params, int rows, int cols) {
  return ds_ceil_div(params.rows, rows) * ds_ceil_div(params.cols, cols);
}

// The clocks of a product in tiles of 128 rows by `cols` columns. A step of 16 in the depth keeps a
// warpgroup's matrix units busy for `cols` of them; for narrow tiles it takes longer to move its operands in
// and out of shared memory, at 128 bytes a clock. Beginning and ending a tile takes some hundreds.
int64_t clocks_of(const ds_gated_linear_params &params, const ds_cuda_device &device, int cols) {
  const int64_t waves = ds_ceil_div(tiles_of(params, 128, cols), device.multiprocessors);
  const int64_t steps = ds_ceil_div(params.in_features, 64) * 4 * 2;
  return waves * (steps * (32 + cols * 3 / 4) + 500);
}

// The number of columns whose tiles fill the multiprocessors best.
template <typename T, int... COLS>
ds_status choose_cols(const ds_gated_linear_params &params, const ds_cuda_device &device, void *stream) {
  constexpr tile_order order = {3, INT32_MAX};
  int64_t least = INT64_MAX;
  int best = 0;
  for (const int cols : {COLS...})
    if (const int64_t clocks = clocks_of(params, device, cols); clocks < least) least = clocks, best = cols;
  ds_status status = DS_OK;
  ((COLS == best &&
    (status = launch<T, gated_linear_shape<COLS, 1, 1>>(params, device, order, stream), true)) ||
   ...);
  return status;
}

// The copy engine sees the weight's halves as a dimension.
bool are_halves_describable(const ds_gated_linear_params &params) {
  int64_t stride;
  return !__builtin_mul_overflow(params.cols, params.weight_row_stride, &stride) && ds_can_map_stride(stride);
}

bool is_describable(const void *data, int64_t rows, int64_t row_stride, int64_t cols) {
  return ds_is_aligned(data) && ds_can_map_size(rows) && ds_can_map_size(cols) &&
         (rows == 1 || ds_can_map_stride(row_stride));
}

} // namespace

int ds_gated_linear_serves_cuda(const ds_gated_linear_params *params) {
  const bool has_kernel =
      (params->dtype == DS_FLOAT16 || params->dtype == DS_BFLOAT16) &&
      is_describable(params->input, params->rows, params->input_row_stride, params->in_features) &&
      is_describable(params->weight, 2 * params->cols, params->weight_row_stride, params->in_features) &&
      are_halves_describable(*params) &&
      is_describable(params->output, params->rows, params->output_row_stride, params->cols) &&
      tiles_of(*params, 128, 40) <= INT32_MAX / 2;
  ds_cuda_device device;
  return has_kernel && ds_cuda_current_device(&device) == DS_OK && device.code == DS_CUDA_CODE_90A &&
         ds_encode_tiled() != NULL;
}

ds_status ds_gated_linear_cuda(const ds_gated_linear_params *params, void *stream) {
  ds_cuda_device device;
  DS_CHECK(ds_cuda_current_device(&device));
  return ds_with_16_bit_element(op, params->dtype, [&](auto element) {
    return choose_cols<typename decltype(element)::type, 128, 112, 80, 40>(*params, device, stream);
  });
}
