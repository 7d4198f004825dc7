#include "ds_block.h"
#include "ds_block_key.h"
#include "ds_block_plan.h"
#include "ds_run.h"

// A matrix with contiguous rows, all at one stride (in elements).
typedef struct matrix {
  void *data;
  int64_t row_stride;
} matrix;

// A Linear's parameters, the output features that a product of several of them has together, and the
// workspace of the product.
typedef struct projection {
  const ds_tensor *weight;
  const ds_tensor *bias;
  int64_t out_features;
  ds_block_buffer workspace;
} projection;

typedef struct norm {
  const ds_tensor *weight;
  const ds_tensor *bias;
} norm;

static matrix own_matrix(const ds_block_call *call, ds_block_buffer index, int64_t cols) {
  return (matrix){ds_block_buffer_at(call, index), cols};
}

static matrix columns_from(const ds_block_call *call, matrix whole, int64_t first_column) {
  const int64_t bytes = first_column * (int64_t)ds_dtype_bytes(call->dtype);
  return (matrix){(char *)whole.data + bytes, whole.row_stride};
}

static ds_rows rows_of(const ds_block_call *call, matrix source) {
  ds_rows rows = ds_rows_contiguous(source.data, call->shape.rows, call->shape.channels);
  rows.strides[0] = source.row_stride;
  return rows;
}

static const void *data_or_null(const ds_tensor *tensor) {
  return tensor == NULL ? NULL : tensor->data;
}

// output = input · weightᵀ + bias + residual; residual.data NULL: none. scale NULL: the weight is not
// quantised.
static ds_status scaled_linear(const ds_block_call *call, int64_t rows, matrix input, projection weights,
                               const ds_tensor *scale, matrix residual, matrix output) {
  const size_t workspace_bytes = call->buffers[weights.workspace].bytes;
  const ds_tensor *weight = weights.weight;
  const int64_t in_features = weight->sizes[1];
  const ds_linear_params params = {
      .dtype = call->dtype,
      .rows = rows,
      .in_features = in_features,
      .out_features = weights.out_features,
      .input = input.data,
      .input_row_stride = input.row_stride,
      .weight = weight->data,
      .weight_row_stride = weight->sizes[0] > 1 ? weight->strides[0] : in_features,
      .scale = data_or_null(scale),
      .groups = scale == NULL ? 0 : ds_block_groups(scale),
      .bias = data_or_null(weights.bias),
      .residual = residual.data,
      .residual_row_stride = residual.row_stride,
      .output = output.data,
      .output_row_stride = output.row_stride,
      .workspace = workspace_bytes == 0 ? NULL : ds_block_buffer_at(call, weights.workspace),
      .workspace_bytes = workspace_bytes};
  return rows == 0 ? DS_OK : call->services->linear(call->services->host, &params);
}

static ds_status linear(const ds_block_call *call, int64_t rows, matrix input, projection weights,
                        matrix residual, matrix output) {
  return scaled_linear(call, rows, input, weights, NULL, residual, output);
}

// output = layer_norm(input + bias + residual); sum, where not NULL, gets what is normalised.
static ds_status normalise(const ds_block_call *call, ds_rows input, const ds_tensor *bias, matrix residual,
                           norm weights, void *output, void *sum) {
  ds_layer_norm_params params = {.dtype = call->dtype,
                                 .rows = call->shape.rows,
                                 .cols = call->shape.channels,
                                 .epsilon = (float)call->arguments->norm_epsilon,
                                 .input = input,
                                 .bias = data_or_null(bias),
                                 .gamma = data_or_null(weights.weight),
                                 .beta = data_or_null(weights.bias),
                                 .output = output,
                                 .sum = sum};
  if (residual.data != NULL) params.residual = rows_of(call, residual);
  return ds_run_layer_norm(call->context, call->device_type, &params);
}

// The first norm. Where hidden_states lies irregularly, the same pass leaves a regular copy for the residual
// sum.
static ds_status normalise_input(const ds_block_call *call, matrix *residual) {
  const norm weights = {call->arguments->norm1_weight, call->arguments->norm1_bias};
  void *copy = NULL;
  if (ds_block_input_is_regular(call)) {
    *residual = (matrix){call->input.data, call->input.strides[0]};
  } else {
    *residual = own_matrix(call, DS_BLOCK_INPUT_COPY, call->shape.channels);
    copy = residual->data;
  }
  return normalise(call, call->input, NULL, (matrix){NULL, 0}, weights,
                   ds_block_buffer_at(call, DS_BLOCK_NORMALISED1), copy);
}

// One attention: its arguments, its shape, and the buffers that are its own.
typedef struct attention {
  const ds_attention_arguments *arguments;
  const ds_attention_shape *shape;
  ds_projection_grouping grouping;
  ds_block_buffer normalised, query, key, value, heads, workspace; // the workspace of its products
} attention;

typedef struct query_key_value {
  matrix query, key, value;
} query_key_value;

static ds_status context_matrix(const attention *self, matrix normalised, matrix *source) {
  *source = normalised;
  if (self->arguments->context == NULL) return DS_OK;
  ds_rows rows;
  DS_CHECK(ds_tensor_rows("context", self->arguments->context, -1, &rows));
  *source = (matrix){rows.data, rows.strides[0]};
  return DS_OK;
}

static int64_t key_rows_of(const ds_block_call *call, const attention *self) {
  return call->shape.batch * self->shape->key_tokens;
}

// The keys or the values among those that are given, in a buffer of their own.
static ds_status copy_part(const ds_block_call *call, const attention *self, matrix part,
                           ds_block_buffer index, matrix *copy) {
  const int64_t rows = key_rows_of(call, self), inner = self->shape->inner;
  *copy = own_matrix(call, index, inner);
  ds_rows source = ds_rows_contiguous(part.data, rows, inner);
  source.strides[0] = part.row_stride;
  // A sum of one term.
  const ds_bias_add_params params = {.dtype = call->dtype,
                                     .rows = rows,
                                     .cols = inner,
                                     .input = source,
                                     .output = ds_rows_contiguous(copy->data, rows, inner)};
  return ds_run_bias_add(call->context, call->device_type, &params);
}

// Keys and values that are given.
static ds_status take_key_value(const ds_block_call *call, const attention *self, query_key_value *result) {
  result->key = (matrix){call->key_value.data, call->key_value.strides[0]};
  result->value = columns_from(call, result->key, self->shape->inner);
  if (self->grouping == DS_PROJECT_QUERY_ALONE) return DS_OK;
  DS_CHECK(copy_part(call, self, result->key, self->key, &result->key));
  return copy_part(call, self, result->value, self->value, &result->value);
}

static ds_status project_key_value(const ds_block_call *call, const attention *self, matrix normalised,
                                   query_key_value *result) {
  const ds_attention_arguments *weights = self->arguments;
  const int64_t rows = key_rows_of(call, self), inner = self->shape->inner;
  const matrix none = {NULL, 0};
  matrix source;
  DS_CHECK(context_matrix(self, normalised, &source));
  if (self->grouping == DS_PROJECT_KEY_VALUE_TOGETHER) {
    result->key = own_matrix(call, self->key, 2 * inner);
    result->value = columns_from(call, result->key, inner);
    return linear(call, rows, source,
                  (projection){weights->k_weight, weights->k_bias, 2 * inner, self->workspace}, none,
                  result->key);
  }
  result->key = own_matrix(call, self->key, inner);
  result->value = own_matrix(call, self->value, inner);
  DS_CHECK(linear(call, rows, source,
                  (projection){weights->k_weight, weights->k_bias, inner, self->workspace}, none,
                  result->key));
  return linear(call, rows, source, (projection){weights->v_weight, weights->v_bias, inner, self->workspace},
                none, result->value);
}

static ds_status project(const ds_block_call *call, const attention *self, query_key_value *result) {
  const ds_attention_arguments *weights = self->arguments;
  const int64_t rows = call->shape.rows, inner = self->shape->inner;
  const matrix none = {NULL, 0}, normalised = own_matrix(call, self->normalised, call->shape.channels);

  if (self->grouping == DS_PROJECT_ALL_TOGETHER) {
    const matrix all = own_matrix(call, self->query, 3 * inner);
    *result = (query_key_value){all, columns_from(call, all, inner), columns_from(call, all, 2 * inner)};
    return linear(call, rows, normalised,
                  (projection){weights->q_weight, weights->q_bias, 3 * inner, self->workspace}, none, all);
  }
  result->query = own_matrix(call, self->query, inner);
  DS_CHECK(linear(call, rows, normalised,
                  (projection){weights->q_weight, weights->q_bias, inner, self->workspace}, none,
                  result->query));
  return weights->key_value == NULL ? project_key_value(call, self, normalised, result)
                                    : take_key_value(call, self, result);
}

static void set_mask(ds_attention_params *params, const ds_tensor *mask) {
  if (mask == NULL) return;
  const int per_head = mask->rank == 4;
  const int source[4] = {0, per_head ? 1 : -1, mask->rank - 2, mask->rank - 1};
  params->mask = mask->data;
  for (int i = 0; i < 4; i++) {
    params->mask_sizes[i] = source[i] < 0 ? 1 : mask->sizes[source[i]];
    params->mask_strides[i] = source[i] < 0 ? 0 : mask->strides[source[i]];
  }
}

// result: the heads' outputs side by side, [rows, inner], before the output projection.
static ds_status attend(const ds_block_call *call, const attention *self, matrix *result) {
  const ds_attention_shape *shape = self->shape;
  const int64_t head_size = shape->inner / shape->heads;
  query_key_value in;
  DS_CHECK(project(call, self, &in));
  ds_attention_params params = {
      .dtype = call->dtype,
      .batch = call->shape.batch,
      .heads = shape->heads,
      .query_tokens = call->shape.tokens,
      .key_tokens = shape->key_tokens,
      .head_size = head_size,
      .query = in.query.data,
      .query_strides = {call->shape.tokens * in.query.row_stride, in.query.row_stride, head_size},
      .key = in.key.data,
      .key_strides = {shape->key_tokens * in.key.row_stride, in.key.row_stride, head_size},
      .value = in.value.data,
      .value_strides = {shape->key_tokens * in.value.row_stride, in.value.row_stride, head_size},
      .output = ds_block_buffer_at(call, self->heads)};
  set_mask(&params, self->arguments->mask);
  const void *heads = NULL;
  DS_CHECK(call->services->attention(call->services->host, &params, &heads));
  *result = (matrix){(void *)(uintptr_t)heads, shape->inner};
  return DS_OK;
}

// A residual junction: sum = residual + input · weightᵀ + bias, and the norm of it. The residual rides on the
// product where the service can add it, and on the norm's pass elsewhere.
static ds_status project_add_normalise(const ds_block_call *call, matrix input, projection weights,
                                       matrix residual, norm norm_weights, ds_block_buffer product,
                                       ds_block_buffer sum, ds_block_buffer normalised) {
  const int64_t rows = call->shape.rows, channels = call->shape.channels;
  const matrix none = {NULL, 0}, sums = own_matrix(call, sum, channels);
  void *output = ds_block_buffer_at(call, normalised);
  if (call->services->linear_adds_residual) {
    DS_CHECK(linear(call, rows, input, weights, residual, sums));
    return normalise(call, rows_of(call, sums), NULL, none, norm_weights, output, NULL);
  }
  const matrix bare = own_matrix(call, product, channels);
  DS_CHECK(
      linear(call, rows, input, (projection){weights.weight, NULL, channels, weights.workspace}, none, bare));
  return normalise(call, rows_of(call, bare), weights.bias, residual, norm_weights, output, sums.data);
}

// The rows of a quantised weight from `first` on, as many as `weight` describes, as what they stand for.
static ds_status dequantize(const ds_block_call *call, const ds_tensor *quantized, const ds_tensor *scale,
                            int64_t first, const ds_tensor *weight) {
  const int64_t groups = ds_block_groups(scale), cols = weight->sizes[1];
  const int64_t row_stride = quantized->sizes[0] > 1 ? quantized->strides[0] : cols;
  const ds_dequantize_params params = {.dtype = weight->dtype,
                                       .rows = weight->sizes[0],
                                       .cols = cols,
                                       .weight = (const int8_t *)quantized->data + first * row_stride,
                                       .weight_row_stride = row_stride,
                                       .scale = (const float *)scale->data + first * groups,
                                       .groups = groups,
                                       .output = weight->data};
  return ds_run_dequantize(call->context, call->device_type, &params);
}

// A whole quantised weight, dequantised in the buffer `index`.
static ds_status dequantize_whole(const ds_block_call *call, const ds_tensor *quantized,
                                  const ds_tensor *scale, ds_block_buffer index, const void **result) {
  const int64_t strides[2] = {quantized->sizes[1], 1};
  ds_tensor weight = *quantized;
  weight.data = ds_block_buffer_at(call, index);
  weight.dtype = call->dtype;
  weight.strides = strides;
  *result = weight.data;
  return dequantize(call, quantized, scale, 0, &weight);
}

// As `linear` for a weight that may be quantised, scale NULL: it is not. One that the service does not take
// is dequantised, as many output features at once as there is room for in the buffer `dequantized`.
static ds_status feed_forward_linear(const ds_block_call *call, matrix input, projection weights,
                                     const ds_tensor *scale, ds_block_buffer dequantized, matrix residual,
                                     matrix output) {
  if (scale == NULL || call->services->linear_takes_quantized)
    return scaled_linear(call, call->shape.rows, input, weights, scale, residual, output);
  const ds_tensor *quantized = weights.weight;
  const int64_t in_features = quantized->sizes[1], step = ds_block_features_at_once(call, quantized);
  for (int64_t first = 0; first < weights.out_features; first += step) {
    const int64_t left = weights.out_features - first;
    const int64_t sizes[2] = {left < step ? left : step, in_features}, strides[2] = {in_features, 1};
    ds_tensor weight = *quantized, bias;
    weight.data = ds_block_buffer_at(call, dequantized);
    weight.dtype = call->dtype;
    weight.sizes = sizes;
    weight.strides = strides;
    projection part = {&weight, NULL, sizes[0], weights.workspace};
    if (weights.bias != NULL) {
      bias = *weights.bias;
      bias.data = columns_from(call, (matrix){bias.data, 0}, first).data;
      part.bias = &bias;
    }
    matrix part_residual = residual;
    if (residual.data != NULL) part_residual = columns_from(call, residual, first);
    DS_CHECK(dequantize(call, quantized, scale, first, &weight));
    DS_CHECK(linear(call, call->shape.rows, input, part, part_residual, columns_from(call, output, first)));
  }
  return DS_OK;
}

// gated = gated_activation(ff_in(normalised)).
static ds_status project_and_gate(const ds_block_call *call, matrix gated) {
  const ds_block_arguments *arguments = call->arguments;
  const int64_t rows = call->shape.rows, inner = call->shape.ff_inner;
  const matrix normalised = own_matrix(call, DS_BLOCK_NORMALISED3, call->shape.channels);
  if (call->ff_in_is_direct) {
    ds_quantized_linear_params params = ds_block_quantized_ff_in(call);
    params.input = normalised.data;
    params.output = gated.data;
    return call->services->quantized_linear(call->services->host, &params);
  }
  if (call->gate_is_fused) {
    ds_gated_linear_params params = ds_block_gated_linear(call);
    if (arguments->ff_in_scale != NULL)
      DS_CHECK(dequantize_whole(call, arguments->ff_in_weight, arguments->ff_in_scale, DS_BLOCK_FF_IN_WEIGHT,
                                &params.weight));
    params.input = normalised.data;
    params.output = gated.data;
    return call->services->gated_linear(call->services->host, &params);
  }
  const matrix none = {NULL, 0}, hidden = own_matrix(call, DS_BLOCK_FF_HIDDEN, 2 * inner);
  DS_CHECK(feed_forward_linear(
      call, normalised, (projection){arguments->ff_in_weight, NULL, 2 * inner, DS_BLOCK_FF_IN_WORKSPACE},
      arguments->ff_in_scale, DS_BLOCK_FF_IN_WEIGHT, none, hidden));
  const ds_gated_activation_params gate = {.dtype = call->dtype,
                                           .rows = rows,
                                           .cols = inner,
                                           .input = ds_rows_contiguous(hidden.data, rows, 2 * inner),
                                           .bias = data_or_null(arguments->ff_in_bias),
                                           .activation_type = (ds_activation_type)arguments->activation_type,
                                           .output = gated.data};
  return ds_run_gated_activation(call->context, call->device_type, &gate);
}

// y = residual + ff_out(gated_activation(ff_in(normalised))).
static ds_status feed_forward(const ds_block_call *call, matrix residual, void *y) {
  const ds_block_arguments *arguments = call->arguments;
  const int64_t rows = call->shape.rows, channels = call->shape.channels;
  const matrix none = {NULL, 0}, output = {y, channels};
  const matrix gated = own_matrix(call, DS_BLOCK_FF_GATED, call->shape.ff_inner);
  const projection out = {arguments->ff_out_weight, arguments->ff_out_bias, channels,
                          DS_BLOCK_FF_OUT_WORKSPACE};

  DS_CHECK(project_and_gate(call, gated));
  if (call->ff_out_is_direct) {
    ds_quantized_linear_params params = ds_block_quantized_ff_out(call);
    params.input = gated.data;
    params.residual = residual.data;
    params.residual_row_stride = residual.row_stride;
    params.output = y;
    return call->services->quantized_linear(call->services->host, &params);
  }
  if (call->services->linear_adds_residual)
    return feed_forward_linear(call, gated, out, arguments->ff_out_scale, DS_BLOCK_FF_OUT_WEIGHT, residual,
                               output);

  const matrix bare = own_matrix(call, DS_BLOCK_FF_PRODUCT, channels);
  DS_CHECK(feed_forward_linear(call, gated, (projection){out.weight, NULL, channels, out.workspace},
                               arguments->ff_out_scale, DS_BLOCK_FF_OUT_WEIGHT, none, bare));
  const ds_bias_add_params add = {.dtype = call->dtype,
                                  .rows = rows,
                                  .cols = channels,
                                  .input = rows_of(call, bare),
                                  .bias = data_or_null(out.bias),
                                  .other = rows_of(call, residual),
                                  .output = rows_of(call, output)};
  return ds_run_bias_add(call->context, call->device_type, &add);
}

static ds_status run(const ds_block_call *call, void *output) {
  const ds_block_arguments *a = call->arguments;
  const int64_t channels = call->shape.channels;
  const norm norm2 = {a->norm2_weight, a->norm2_bias}, norm3 = {a->norm3_weight, a->norm3_bias};
  const projection out1 = {a->attn1.out_weight, a->attn1.out_bias, channels, DS_BLOCK_OUT1_WORKSPACE};
  const projection out2 = {a->attn2.out_weight, a->attn2.out_bias, channels, DS_BLOCK_OUT2_WORKSPACE};
  const attention first = {
      &a->attn1,     &call->shape.attn1, call->grouping1, DS_BLOCK_NORMALISED1,       DS_BLOCK_QUERY1,
      DS_BLOCK_KEY1, DS_BLOCK_VALUE1,    DS_BLOCK_HEADS1, DS_BLOCK_PROJECT1_WORKSPACE};
  const attention second = {
      &a->attn2,     &call->shape.attn2, call->grouping2, DS_BLOCK_NORMALISED2,       DS_BLOCK_QUERY2,
      DS_BLOCK_KEY2, DS_BLOCK_VALUE2,    DS_BLOCK_HEADS2, DS_BLOCK_PROJECT2_WORKSPACE};
  matrix residual, heads;
  DS_CHECK(normalise_input(call, &residual));
  DS_CHECK(attend(call, &first, &heads));
  if (call->shape.attn2.present) {
    DS_CHECK(project_add_normalise(call, heads, out1, residual, norm2, DS_BLOCK_PRODUCT1, DS_BLOCK_SUM1,
                                   DS_BLOCK_NORMALISED2));
    DS_CHECK(attend(call, &second, &heads));
    DS_CHECK(project_add_normalise(call, heads, out2, own_matrix(call, DS_BLOCK_SUM1, channels), norm3,
                                   DS_BLOCK_PRODUCT2, DS_BLOCK_SUM2, DS_BLOCK_NORMALISED3));
    return feed_forward(call, own_matrix(call, DS_BLOCK_SUM2, channels), output);
  }
  DS_CHECK(project_add_normalise(call, heads, out1, residual, norm3, DS_BLOCK_PRODUCT1, DS_BLOCK_SUM1,
                                 DS_BLOCK_NORMALISED3));
  return feed_forward(call, own_matrix(call, DS_BLOCK_SUM1, channels), output);
}

// A planned call and where its result goes.
typedef struct planned_call {
  const ds_block_call *call;
  void *output;
} planned_call;

static ds_status run_planned(void *argument) {
  const planned_call *planned = argument;
  return run(planned->call, planned->output);
}

static ds_status enqueue(const ds_block_call *call, const ds_tensor *output) {
  const ds_services *services = call->services;
  if (services->enqueue == NULL) return run(call, output->data);
  planned_call planned = {call, output->data};
  ds_block_key key;
  ds_block_write_key(call, output, &key);
  return services->enqueue(services->host, key.words, (size_t)key.count * sizeof *key.words, run_planned,
                           &planned);
}

ds_status ds_block_forward(const ds_context *context, const ds_services *services,
                           const ds_block_arguments *arguments, const ds_tensor *output) {
  ds_block_call call = {.context = context, .services = services, .arguments = arguments};
  DS_CHECK(ds_block_check(context, arguments, output, &call.shape));
  if (call.shape.rows == 0) return DS_OK;
  call.device_type = arguments->hidden_states->device_type;
  call.dtype = arguments->hidden_states->dtype;
  DS_CHECK(ds_tensor_rows("hidden_states", arguments->hidden_states, -1, &call.input));
  if (arguments->attn2.key_value != NULL)
    DS_CHECK(ds_tensor_rows("attn2_key_value", arguments->attn2.key_value, -1, &call.key_value));
  DS_CHECK(ds_block_plan(&call));
  return enqueue(&call, output);
}
