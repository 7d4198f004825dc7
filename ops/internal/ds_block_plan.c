#include "ds_block_plan.h"

// The steps of a block, in order: the time axis on which its buffers live.
enum { NORM1, PROJECT1, ATTEND1, OUT1, NORM2, PROJECT2, ATTEND2, OUT2, NORM3, FF_IN, GATE, FF_OUT, ADD };

// Whether `second` starts in memory where `first` ends, so that both are one matrix or vector.
static int follows(const ds_tensor *first, const ds_tensor *second) {
  if (first == NULL || second == NULL) return first == second;
  const size_t bytes = (size_t)ds_tensor_numel(first) * ds_dtype_bytes(first->dtype);
  return ds_tensor_is_contiguous(first) && ds_tensor_is_contiguous(second) &&
         (const char *)first->data + bytes == (const char *)second->data;
}

// Attention kernels read keys and values in vectors.
enum { VECTOR_BYTES = 16 };

// Whether so many elements are whole vectors.
static int is_whole_vectors(int64_t elements, ds_dtype dtype) {
  return elements * (int64_t)ds_dtype_bytes(dtype) % VECTOR_BYTES == 0;
}

// Of keys and values that are given.
static ds_projection_grouping group_given(const ds_block_call *call, const ds_attention_shape *shape) {
  const ds_rows *given = &call->key_value;
  const int is_readable = (uintptr_t)given->data % VECTOR_BYTES == 0 &&
                          is_whole_vectors(shape->inner, call->dtype) &&
                          is_whole_vectors(given->strides[0], call->dtype);
  return is_readable ? DS_PROJECT_QUERY_ALONE : DS_PROJECT_QUERY_AND_COPY;
}

static ds_projection_grouping group_projections(const ds_block_call *call,
                                                const ds_attention_arguments *attention,
                                                const ds_attention_shape *shape) {
  if (attention->key_value != NULL) return group_given(call, shape);
  // In a common product the keys begin behind the queries of the same row.
  if (!is_whole_vectors(shape->inner, call->dtype)) return DS_PROJECT_SEPARATELY;
  if (!follows(attention->k_weight, attention->v_weight) || !follows(attention->k_bias, attention->v_bias))
    return DS_PROJECT_SEPARATELY;
  const int query_key = attention->context == NULL && follows(attention->q_weight, attention->k_weight) &&
                        follows(attention->q_bias, attention->k_bias);
  return query_key ? DS_PROJECT_ALL_TOGETHER : DS_PROJECT_KEY_VALUE_TOGETHER;
}

// More bytes than a buffer can have, few enough that the sum over all buffers does not wrap around.
static const size_t most_bytes = (size_t)PTRDIFF_MAX / 64;

static void plan_buffer(ds_block_call *call, int index, int64_t rows, int64_t cols, int first, int last) {
  size_t bytes;
  if (__builtin_mul_overflow((size_t)rows, (size_t)cols, &bytes) ||
      __builtin_mul_overflow(bytes, ds_dtype_bytes(call->dtype), &bytes) || bytes > most_bytes)
    bytes = most_bytes;
  call->buffers[index] = (ds_scratch_buffer){.bytes = bytes, .first = first, .last = last};
}

// Expanded tensors can have more elements than there are addresses.
static ds_status check_sizes(const ds_block_call *call) {
  for (int i = 0; i < DS_BLOCK_BUFFERS; i++)
    if (call->buffers[i].bytes == most_bytes)
      return ds_error(
          DS_E_MEMORY,
          "ds_diffusers::block_forward: the sizes of its arguments ask for more memory than there "
          "can be");
  return DS_OK;
}

int64_t ds_block_features_at_once(const ds_block_call *call, const ds_tensor *weight) {
  const int64_t features = weight->sizes[0];
  // Several small products would leave much of a GPU idle.
  if (call->device_type == DS_CUDA) return features;
  // Few enough to come from a cache when they are multiplied; a multiple of what products work on at once.
  enum { CACHED_BYTES = 4 << 20, TILE = 64 };
  const int64_t row_bytes = weight->sizes[1] * (int64_t)ds_dtype_bytes(call->dtype);
  const int64_t fitting = CACHED_BYTES / row_bytes / TILE * TILE;
  const int64_t step = fitting < TILE ? TILE : fitting;
  return step < features ? step : features;
}

static void plan_dequantized(ds_block_call *call, int index, const ds_tensor *weight, const ds_tensor *scale,
                             int step) {
  if (scale == NULL) return;
  plan_buffer(call, index, ds_block_features_at_once(call, weight), weight->sizes[1], step, step);
}

// Buffers of one attention; `query` is one of the QUERY buffers, with KEY and VALUE behind it.
static void plan_projections(ds_block_call *call, const ds_attention_shape *attention,
                             ds_projection_grouping grouping, int query, int first, int last) {
  const int64_t rows = call->shape.rows, key_rows = call->shape.batch * attention->key_tokens;
  switch (grouping) {
  case DS_PROJECT_ALL_TOGETHER:
    plan_buffer(call, query, rows, 3 * attention->inner, first, last);
    break;
  case DS_PROJECT_KEY_VALUE_TOGETHER:
    plan_buffer(call, query, rows, attention->inner, first, last);
    plan_buffer(call, query + 1, key_rows, 2 * attention->inner, first, last);
    break;
  case DS_PROJECT_QUERY_ALONE:
    plan_buffer(call, query, rows, attention->inner, first, last);
    break;
  case DS_PROJECT_SEPARATELY:
  case DS_PROJECT_QUERY_AND_COPY:
    for (int i = 0; i < 3; i++)
      plan_buffer(call, query + i, i == 0 ? rows : key_rows, attention->inner, first, last);
    break;
  }
}

// Of 16 bits, workspaces take no more than the feed-forward needs in any case: its first product, which is
// wide and adds no bias, gets next to none.
static void plan_workspaces(ds_block_call *call) {
  const int64_t channels = call->shape.channels;
  const struct {
    int index, step, second;
    int64_t cols;
  } products[] = {{DS_BLOCK_PROJECT1_WORKSPACE, PROJECT1, 0, channels},
                  {DS_BLOCK_OUT1_WORKSPACE, OUT1, 0, channels},
                  {DS_BLOCK_PROJECT2_WORKSPACE, PROJECT2, 1, channels},
                  {DS_BLOCK_OUT2_WORKSPACE, OUT2, 1, channels},
                  {DS_BLOCK_FF_IN_WORKSPACE, FF_IN, 0, 0},
                  {DS_BLOCK_FF_OUT_WORKSPACE, FF_OUT, 0, channels}};
  for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
    if (products[i].second && !call->shape.attn2.present) continue;
    call->buffers[products[i].index] = (ds_scratch_buffer){
        .bytes = ds_scratch_workspace_bytes(call->services, call->dtype, call->shape.rows, products[i].cols),
        .first = products[i].step,
        .last = products[i].step};
  }
}

ds_gated_linear_params ds_block_gated_linear(const ds_block_call *call) {
  const ds_block_arguments *arguments = call->arguments;
  const int64_t inner = call->shape.ff_inner, channels = call->shape.channels;
  const int is_quantized = arguments->ff_in_scale != NULL;
  return (ds_gated_linear_params){.dtype = call->dtype,
                                  .rows = call->shape.rows,
                                  .in_features = channels,
                                  .cols = inner,
                                  .input_row_stride = channels,
                                  .weight = is_quantized ? NULL : arguments->ff_in_weight->data,
                                  .weight_row_stride =
                                      is_quantized ? channels : arguments->ff_in_weight->strides[0],
                                  .bias = arguments->ff_in_bias == NULL ? NULL : arguments->ff_in_bias->data,
                                  .activation_type = (ds_activation_type)arguments->activation_type,
                                  .output_row_stride = inner};
}

static const void *data_or_null(const ds_tensor *tensor) {
  return tensor == NULL ? NULL : tensor->data;
}

ds_quantized_linear_params ds_block_quantized_ff_in(const ds_block_call *call) {
  const ds_block_arguments *arguments = call->arguments;
  const int64_t inner = call->shape.ff_inner, channels = call->shape.channels;
  return (ds_quantized_linear_params){.dtype = call->dtype,
                                      .rows = call->shape.rows,
                                      .in_features = channels,
                                      .cols = inner,
                                      .input_row_stride = channels,
                                      .weight = arguments->ff_in_weight->data,
                                      .weight_row_stride = arguments->ff_in_weight->strides[0],
                                      .scale = arguments->ff_in_scale->data,
                                      .bias = data_or_null(arguments->ff_in_bias),
                                      .gate = (ds_activation_type)arguments->activation_type,
                                      .output_row_stride = inner};
}

ds_quantized_linear_params ds_block_quantized_ff_out(const ds_block_call *call) {
  const ds_block_arguments *arguments = call->arguments;
  const int64_t inner = call->shape.ff_inner, channels = call->shape.channels;
  const ds_tensor *weight = arguments->ff_out_weight;
  return (ds_quantized_linear_params){.dtype = call->dtype,
                                      .rows = call->shape.rows,
                                      .in_features = inner,
                                      .cols = channels,
                                      .input_row_stride = inner,
                                      .weight = weight->data,
                                      .weight_row_stride = channels > 1 ? weight->strides[0] : inner,
                                      .scale = arguments->ff_out_scale->data,
                                      .bias = data_or_null(arguments->ff_out_bias),
                                      .gate = DS_ACTIVATION_UNKNOWN,
                                      .residual_row_stride = channels,
                                      .output_row_stride = channels};
}

// Whether a product reads a weight with this scale itself.
static int is_direct(const ds_block_call *call, const ds_tensor *scale,
                     ds_quantized_linear_params (*describe)(const ds_block_call *)) {
  const ds_services *services = call->services;
  if (scale == NULL || ds_block_groups(scale) != 1 || services->quantized_linear_serves == NULL) return 0;
  const ds_quantized_linear_params params = describe(call);
  return services->quantized_linear_serves(services->host, &params);
}

// A quantised weight that is dequantised in pieces has a product for each.
static int can_fuse_gate(const ds_block_call *call) {
  const ds_services *services = call->services;
  const ds_tensor *weight = call->arguments->ff_in_weight;
  const int in_pieces =
      call->arguments->ff_in_scale != NULL && ds_block_features_at_once(call, weight) < weight->sizes[0];
  if (services->gated_linear_serves == NULL || in_pieces) return 0;
  const ds_gated_linear_params params = ds_block_gated_linear(call);
  return services->gated_linear_serves(services->host, &params);
}

static void plan_feed_forward(ds_block_call *call) {
  const ds_block_shape *shape = &call->shape;
  const ds_block_arguments *arguments = call->arguments;
  call->ff_in_is_direct = is_direct(call, arguments->ff_in_scale, ds_block_quantized_ff_in);
  call->ff_out_is_direct = is_direct(call, arguments->ff_out_scale, ds_block_quantized_ff_out);
  call->gate_is_fused = !call->ff_in_is_direct && can_fuse_gate(call);
  const int one_step = call->ff_in_is_direct || call->gate_is_fused;
  if (!one_step) plan_buffer(call, DS_BLOCK_FF_HIDDEN, shape->rows, 2 * shape->ff_inner, FF_IN, GATE);
  plan_buffer(call, DS_BLOCK_FF_GATED, shape->rows, shape->ff_inner, one_step ? FF_IN : GATE, FF_OUT);
  if (!call->services->linear_adds_residual && !call->ff_out_is_direct)
    plan_buffer(call, DS_BLOCK_FF_PRODUCT, shape->rows, shape->channels, FF_OUT, ADD);
  const int taken = call->services->linear_takes_quantized;
  if (!call->ff_in_is_direct && (call->gate_is_fused || !taken))
    plan_dequantized(call, DS_BLOCK_FF_IN_WEIGHT, arguments->ff_in_weight, arguments->ff_in_scale, FF_IN);
  if (!call->ff_out_is_direct && !taken)
    plan_dequantized(call, DS_BLOCK_FF_OUT_WEIGHT, arguments->ff_out_weight, arguments->ff_out_scale, FF_OUT);
}

ds_status ds_block_plan(ds_block_call *call) {
  const ds_block_shape *shape = &call->shape;
  const ds_block_arguments *arguments = call->arguments;
  const int64_t rows = shape->rows, channels = shape->channels;
  const int bare_products = !call->services->linear_adds_residual;
  call->grouping1 = group_projections(call, &arguments->attn1, &shape->attn1);
  call->grouping2 = group_projections(call, &arguments->attn2, &shape->attn2);

  if (!ds_block_input_is_regular(call)) plan_buffer(call, DS_BLOCK_INPUT_COPY, rows, channels, NORM1, NORM2);
  plan_buffer(call, DS_BLOCK_NORMALISED1, rows, channels, NORM1, PROJECT1);
  plan_projections(call, &shape->attn1, call->grouping1, DS_BLOCK_QUERY1, PROJECT1, ATTEND1);
  plan_buffer(call, DS_BLOCK_HEADS1, rows, shape->attn1.inner, ATTEND1, OUT1);
  if (bare_products) plan_buffer(call, DS_BLOCK_PRODUCT1, rows, channels, OUT1, NORM2);
  plan_buffer(call, DS_BLOCK_SUM1, rows, channels, OUT1, shape->attn2.present ? NORM3 : ADD);
  if (shape->attn2.present) {
    plan_buffer(call, DS_BLOCK_NORMALISED2, rows, channels, NORM2, PROJECT2);
    plan_projections(call, &shape->attn2, call->grouping2, DS_BLOCK_QUERY2, PROJECT2, ATTEND2);
    plan_buffer(call, DS_BLOCK_HEADS2, rows, shape->attn2.inner, ATTEND2, OUT2);
    if (bare_products) plan_buffer(call, DS_BLOCK_PRODUCT2, rows, channels, OUT2, NORM3);
    plan_buffer(call, DS_BLOCK_SUM2, rows, channels, OUT2, ADD);
  }
  plan_buffer(call, DS_BLOCK_NORMALISED3, rows, channels, shape->attn2.present ? NORM3 : NORM2, FF_IN);
  plan_feed_forward(call);
  plan_workspaces(call);

  DS_CHECK(check_sizes(call));
  void *memory = NULL;
  const size_t bytes = ds_scratch_plan(call->buffers, DS_BLOCK_BUFFERS);
  DS_CHECK(call->services->allocate(call->services->host, bytes, &memory));
  call->memory = memory;
  return DS_OK;
}
