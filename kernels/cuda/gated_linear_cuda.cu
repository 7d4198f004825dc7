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
  int lead;  // blocks of depth by which a tile's warpgroup is ahead of the next
  int group; // rows of tiles that follow each other before the next column
};

// The stride of a dimension of one means nothing and need not suit the copy engine.
int64_t stride_of(int64_t rows, int64_t row_stride, int64_t cols) {
  return rows > 1 ? row_stride : cols;
}

template <class SHAPE>
ds_status make_maps(const ds_gated_linear_params &params, CUtensorMap *input, CUtensorMap *weight,
                    CUtensorMap *output) {
  const int64_t input_stride = stride_of(params.rows, params.input_row_stride, params.in_features);
  const int64_t output_stride = stride_of(params.rows, params.output_row_stride, params.cols);
  DS_CHECK(ds_make_tensor_map<2>(
      op, input, params.dtype, params.input,
      {{params.in_features, params.rows}, {input_stride}, {SHAPE::DEPTH, SHAPE::ROWS}}));
  // Values and gates are a dimension of their own: what a tile has beyond the last value is not a gate.
  DS_CHECK(ds_make_tensor_map<3>(op, weight, params.dtype, params.weight,
                                 {{params.in_features, params.cols, 2},
                                  {params.weight_row_stride, params.cols * params.weight_row_stride},
                                  {SHAPE::DEPTH, SHAPE::COLS, 2}}));
  return ds_make_tensor_map<2>(op, output, params.dtype, params.output,
                               {{params.cols, params.rows}, {output_stride}, {SHAPE::PIECE_COLS, 64}},
                               SHAPE::SWIZZLED);
}

// The blocks of depth by which a tile's warpgroups run ahead, `wanted` if possible. Each announces its lead
// once in a tile, under the block that comes after those of the lead, and not before the next warpgroup has
// begun that tile: that one is behind by the stages at most.
template <class SHAPE>
int lead_of(int wanted, int depth_blocks) {
  const int64_t least = SHAPE::STAGES - depth_blocks, most = ds_min(SHAPE::STAGES, depth_blocks) - 1;
  const int64_t possible = ds_min(wanted, most), lead = possible > least ? possible : least;
  return wanted > 0 && lead <= most ? (int)lead : 0;
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
  arguments.row_tiles = (int)ds_ceil_div(params.rows, SHAPE::ROWS);
  arguments.col_tiles = (int)ds_ceil_div(params.cols, SHAPE::COLS);
  arguments.group = (int)ds_min(order.group, arguments.row_tiles);
  arguments.lead = lead_of<SHAPE>(order.lead, arguments.depth_blocks);
  arguments.silu = params.activation_type == DS_ACTIVATION_GATED_SILU;
  constexpr auto kernel = gated_linear_kernel<T, SHAPE>;
  DS_CHECK((ds_allow_shared_bytes<kernel, SHAPE::SHARED_BYTES>(op, device)));
  const int64_t blocks = ds_min((int64_t)arguments.row_tiles * arguments.col_tiles, device.multiprocessors);
  return ds_launch_early(op, kernel, dim3((unsigned)blocks), dim3(SHAPE::THREADS), SHAPE::SHARED_BYTES,
                         stream, input_map, weight_map, output_map, arguments);
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
  constexpr tile_order order = {2, 8};
  int64_t least = INT64_MAX;
  int best = 0;
  for (const int cols : {COLS...})
    if (const int64_t clocks = clocks_of(params, device, cols); clocks < least) least = clocks, best = cols;
  ds_status status = DS_OK;
  ((COLS == best && (status = launch<T, gated_linear_shape<COLS>>(params, device, order, stream), true)) ||
   ...);
  return status;
}

// Rows end where 16 bytes do: the copy engine need not cut these apart.
bool is_describable(const void *data, int64_t rows, int64_t row_stride, int64_t cols) {
  constexpr int64_t unit = 8;
  return ds_is_aligned(data) && ds_can_map_size(rows) && ds_can_map_size(cols) && cols % unit == 0 &&
         (rows == 1 || ds_can_map_stride(row_stride));
}

} // namespace

int ds_gated_linear_serves_cuda(const ds_gated_linear_params *params) {
  const bool has_kernel =
      (params->dtype == DS_FLOAT16 || params->dtype == DS_BFLOAT16) &&
      is_describable(params->input, params->rows, params->input_row_stride, params->in_features) &&
      is_describable(params->weight, 2 * params->cols, params->weight_row_stride, params->in_features) &&
      ds_can_map_halves(params->cols, params->weight_row_stride) &&
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
