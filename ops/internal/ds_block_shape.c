#include "ds_block_shape.h"
#include "ds_check.h"
#include "ds_run.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char op[] = "ds_diffusers::block_forward";

// "attn1_q_weight" from "attn1" and "q_weight".
typedef struct argument_name {
  char text[32];
} argument_name;

// Every call makes some twenty of them, of which snprintf would take microseconds.
static argument_name name_of(const char *attention, const char *argument) {
  argument_name name;
  const size_t first = strlen(attention), second = strlen(argument);
  memcpy(name.text, attention, first);
  name.text[first] = '_';
  memcpy(name.text + first + 1, argument, second + 1);
  return name;
}

// [rows, cols]; -1 takes any number of rows from 1 up. `what` explains the numbers.
static ds_status check_matrix_shape(const char *name, const ds_tensor *matrix, int64_t rows, int64_t cols,
                                    const char *what) {
  if (matrix->rank == 2 && matrix->sizes[1] == cols &&
      (rows < 0 ? matrix->sizes[0] >= 1 : matrix->sizes[0] == rows)) {
    if (matrix->sizes[1] != 1 && matrix->strides[1] != 1)
      return ds_error(DS_E_STRIDE, "%s: %s has stride %" PRId64 " in its last dimension, must be 1", op, name,
                      matrix->strides[1]);
    return DS_OK;
  }
  if (rows < 0) return ds_shape_error(op, name, matrix, "[N, %" PRId64 "], %s", cols, what);
  return ds_shape_error(op, name, matrix, "[%" PRId64 ", %" PRId64 "], %s", rows, cols, what);
}

static ds_status check_matrix(const char *name, const ds_tensor *matrix, int64_t rows, int64_t cols,
                              const char *what, const ds_tensor *reference) {
  DS_CHECK(ds_check_alike(op, name, matrix, "hidden_states", reference));
  return check_matrix_shape(name, matrix, rows, cols, what);
}

static ds_status check_optional_bias(const char *name, const ds_tensor *bias, int64_t size,
                                     const ds_tensor *reference) {
  return ds_check_optional_vector(op, name, bias, size, "the number of rows of its weight", "hidden_states",
                                  reference);
}

static ds_status check_norm(const char *name, const ds_tensor *weight, const ds_tensor *bias,
                            const ds_tensor *hidden_states) {
  static const char meaning[] = "the size of hidden_states' last dimension";
  const int64_t channels = hidden_states->sizes[2];
  DS_CHECK(ds_check_optional_vector(op, name_of(name, "weight").text, weight, channels, meaning,
                                    "hidden_states", hidden_states));
  return ds_check_optional_vector(op, name_of(name, "bias").text, bias, channels, meaning, "hidden_states",
                                  hidden_states);
}

// [B, …, …] with rows at one stride.
static ds_status check_regular_rows(const char *name, const ds_tensor *tensor) {
  if (ds_tensor_numel(tensor) == 0) return DS_OK;
  ds_rows rows;
  DS_CHECK(ds_tensor_rows(name, tensor, -1, &rows));
  if (rows.dims != 1 || rows.col_stride != 1)
    return ds_error(DS_E_STRIDE,
                    "%s: %s has irregular strides, must have its rows at one stride and a contiguous "
                    "last dimension",
                    op, name);
  return DS_OK;
}

static ds_status check_context(const char *attention, const ds_tensor *context,
                               const ds_tensor *hidden_states, ds_attention_shape *shape) {
  shape->key_tokens = hidden_states->sizes[1];
  shape->context_features = hidden_states->sizes[2];
  if (context == NULL) return DS_OK;
  const argument_name name = name_of(attention, "context");
  DS_CHECK(ds_check_alike(op, name.text, context, "hidden_states", hidden_states));
  if (context->rank != 3 || context->sizes[0] != hidden_states->sizes[0])
    return ds_shape_error(op, name.text, context, "[%" PRId64 ", T, K], with hidden_states' first dimension",
                          hidden_states->sizes[0]);
  shape->key_tokens = context->sizes[1];
  shape->context_features = context->sizes[2];
  return check_regular_rows(name.text, context);
}

// Keys and values that are given leave nothing to project, and nothing to project it with: what would be
// dropped without a word is refused.
static ds_status check_key_value(const char *attention, const ds_attention_arguments *arguments,
                                 const ds_tensor *hidden_states, ds_attention_shape *shape) {
  const ds_tensor *key_value = arguments->key_value;
  const argument_name name = name_of(attention, "key_value");
  const struct {
    const char *name;
    const ds_tensor *tensor;
  } replaced[] = {{"context", arguments->context},
                  {"k_weight", arguments->k_weight},
                  {"k_bias", arguments->k_bias},
                  {"v_weight", arguments->v_weight},
                  {"v_bias", arguments->v_bias}};
  for (size_t i = 0; i < sizeof replaced / sizeof *replaced; i++)
    if (replaced[i].tensor != NULL)
      return ds_error(DS_E_NULL, "%s: %s is given, must be None where %s is given", op,
                      name_of(attention, replaced[i].name).text, name.text);
  DS_CHECK(ds_check_alike(op, name.text, key_value, "hidden_states", hidden_states));
  const int64_t batch = hidden_states->sizes[0], cols = 2 * shape->inner;
  if (key_value->rank != 3 || key_value->sizes[0] != batch || key_value->sizes[2] != cols)
    return ds_shape_error(op, name.text, key_value,
                          "[%" PRId64 ", T, %" PRId64
                          "], with hidden_states' first dimension and twice the rows of q_weight",
                          batch, cols);
  shape->key_tokens = key_value->sizes[1];
  return check_regular_rows(name.text, key_value);
}

static int is_one_or(int64_t size, int64_t full) {
  return size == 1 || size == full;
}

static ds_status check_mask(const char *attention, const ds_tensor *mask, const ds_tensor *hidden_states,
                            const ds_attention_shape *shape) {
  if (mask == NULL) return DS_OK;
  const argument_name name = name_of(attention, "mask");
  DS_CHECK(ds_check_alike(op, name.text, mask, "hidden_states", hidden_states));
  const int64_t batch = hidden_states->sizes[0], tokens = hidden_states->sizes[1];
  const int rank = mask->rank;
  const int fits = (rank == 3 || rank == 4) && is_one_or(mask->sizes[0], batch) &&
                   (rank == 3 || is_one_or(mask->sizes[1], shape->heads)) &&
                   is_one_or(mask->sizes[rank - 2], tokens) && mask->sizes[rank - 1] == shape->key_tokens;
  if (fits) return DS_OK;
  return ds_shape_error(op, name.text, mask,
                        "[%" PRId64 " or 1, %" PRId64 " or 1, %" PRId64 "], or rank 4 with %" PRId64
                        " or 1 heads as second dimension",
                        batch, tokens, shape->key_tokens, shape->heads);
}

static ds_status check_projections(const char *attention, const ds_attention_arguments *arguments,
                                   const ds_tensor *hidden_states, const ds_attention_shape *shape) {
  static const char from_context[] = "[rows of q_weight, features of the context]";
  const int64_t channels = hidden_states->sizes[2];
#define DS_CHECK_MATRIX(argument, rows, cols, what)                                                          \
  DS_CHECK(check_matrix(name_of(attention, #argument).text, arguments->argument, rows, cols, what,           \
                        hidden_states))
#define DS_CHECK_BIAS(argument, size)                                                                        \
  DS_CHECK(check_optional_bias(name_of(attention, #argument).text, arguments->argument, size, hidden_states))
  if (arguments->key_value == NULL) {
    DS_CHECK_MATRIX(k_weight, shape->inner, shape->context_features, from_context);
    DS_CHECK_MATRIX(v_weight, shape->inner, shape->context_features, from_context);
  }
  DS_CHECK_MATRIX(out_weight, channels, shape->inner, "[channels of hidden_states, rows of q_weight]");
  DS_CHECK_BIAS(q_bias, shape->inner);
  DS_CHECK_BIAS(k_bias, shape->inner);
  DS_CHECK_BIAS(v_bias, shape->inner);
  DS_CHECK_BIAS(out_bias, channels);
#undef DS_CHECK_MATRIX
#undef DS_CHECK_BIAS
  return DS_OK;
}

static ds_status check_attention(const char *attention, const ds_attention_arguments *arguments,
                                 const ds_tensor *hidden_states, ds_attention_shape *shape) {
  const argument_name q_weight = name_of(attention, "q_weight");
  DS_CHECK(check_context(attention, arguments->context, hidden_states, shape));
  DS_CHECK(check_matrix(q_weight.text, arguments->q_weight, -1, hidden_states->sizes[2],
                        "with hidden_states' last dimension", hidden_states));
  shape->present = 1;
  shape->inner = arguments->q_weight->sizes[0];
  shape->heads = arguments->heads;
  if (shape->heads < 1 || shape->inner % shape->heads != 0)
    return ds_error(DS_E_VALUE,
                    "%s: heads is %" PRId64 ", must be a divisor of %" PRId64 ", the number of rows of %s",
                    op, shape->heads, shape->inner, q_weight.text);
  if (arguments->key_value != NULL) DS_CHECK(check_key_value(attention, arguments, hidden_states, shape));
  DS_CHECK(check_projections(attention, arguments, hidden_states, shape));
  return check_mask(attention, arguments->mask, hidden_states, shape);
}

// Arguments of a second attention that isn't there would be dropped without a word.
static ds_status check_no_second_attention(const ds_block_arguments *arguments) {
  const ds_attention_arguments *attn2 = &arguments->attn2;
  const struct {
    const char *name;
    const ds_tensor *tensor;
  } given[] = {{"attn2_context", attn2->context},         {"attn2_mask", attn2->mask},
               {"attn2_key_value", attn2->key_value},     {"attn2_q_bias", attn2->q_bias},
               {"attn2_k_weight", attn2->k_weight},       {"attn2_k_bias", attn2->k_bias},
               {"attn2_v_weight", attn2->v_weight},       {"attn2_v_bias", attn2->v_bias},
               {"attn2_out_weight", attn2->out_weight},   {"attn2_out_bias", attn2->out_bias},
               {"norm2_weight", arguments->norm2_weight}, {"norm2_bias", arguments->norm2_bias}};
  for (size_t i = 0; i < sizeof given / sizeof *given; i++)
    if (given[i].tensor != NULL)
      return ds_error(DS_E_NULL, "%s: %s is given, must be None where attn2_q_weight is None", op,
                      given[i].name);
  return DS_OK;
}

// The scale of a quantised weight whose shape was checked.
static ds_status check_scale(const char *name, const ds_tensor *scale, const char *weight_name,
                             const ds_tensor *weight, const ds_tensor *reference) {
  DS_CHECK(ds_check_dtype(op, name, scale, DS_FLOAT32, "", "hidden_states", reference));
  const int64_t rows = weight->sizes[0], cols = weight->sizes[1];
  const int fits =
      (scale->rank == 1 || (scale->rank == 2 && scale->sizes[1] >= 1 && cols % scale->sizes[1] == 0)) &&
      scale->sizes[0] == rows;
  if (!fits)
    return ds_shape_error(op, name, scale,
                          "[%" PRId64 "] or [%" PRId64 ", G], the rows of %s and a divisor of its %" PRId64
                          " columns",
                          rows, rows, weight_name, cols);
  if (!ds_tensor_is_contiguous(scale))
    return ds_error(DS_E_STRIDE, "%s: %s is not contiguous, must be contiguous", op, name);
  return DS_OK;
}

// As check_matrix for a weight of the feed-forward ("ff_in"), which may be quantised.
static ds_status check_feed_forward_weight(const char *layer, const ds_tensor *weight, const ds_tensor *scale,
                                           int64_t rows, int64_t cols, const char *what,
                                           const ds_tensor *reference) {
  const argument_name name = name_of(layer, "weight"), scale_name = name_of(layer, "scale");
  if (scale == NULL && (weight == NULL || weight->dtype != DS_INT8))
    return check_matrix(name.text, weight, rows, cols, what, reference);
  if (scale == NULL)
    return ds_error(DS_E_NULL, "%s: %s is None, must be a tensor where %s is int8", op, scale_name.text,
                    name.text);
  char condition[64];
  snprintf(condition, sizeof condition, "where %s is given", scale_name.text);
  DS_CHECK(ds_check_dtype(op, name.text, weight, DS_INT8, condition, "hidden_states", reference));
  DS_CHECK(check_matrix_shape(name.text, weight, rows, cols, what));
  return check_scale(scale_name.text, scale, name.text, weight, reference);
}

static ds_status check_feed_forward(const ds_block_arguments *arguments, ds_block_shape *shape) {
  const ds_tensor *x = arguments->hidden_states, *in = arguments->ff_in_weight;
  DS_CHECK(check_feed_forward_weight("ff_in", in, arguments->ff_in_scale, -1, shape->channels,
                                     "with hidden_states' last dimension", x));
  if (in->sizes[0] % 2 != 0) return ds_shape_error(op, "ff_in_weight", in, "of an even number of rows");
  shape->ff_inner = in->sizes[0] / 2;
  DS_CHECK(check_optional_bias("ff_in_bias", arguments->ff_in_bias, in->sizes[0], x));
  DS_CHECK(check_feed_forward_weight("ff_out", arguments->ff_out_weight, arguments->ff_out_scale,
                                     shape->channels, shape->ff_inner,
                                     "[channels of hidden_states, half the rows of ff_in_weight]", x));
  return check_optional_bias("ff_out_bias", arguments->ff_out_bias, shape->channels, x);
}

ds_status ds_block_check(const ds_context *context, const ds_block_arguments *arguments,
                         const ds_tensor *output, ds_block_shape *shape) {
  const ds_tensor *x = arguments->hidden_states;
  DS_CHECK(ds_check_tensor(op, "hidden_states", x));
  if (x->rank != 3 || x->sizes[2] < 1)
    return ds_shape_error(op, "hidden_states", x, "[B, S, C] with C of 1 or more");
  *shape = (ds_block_shape){.batch = x->sizes[0],
                            .tokens = x->sizes[1],
                            .rows = x->sizes[0] * x->sizes[1],
                            .channels = x->sizes[2]};
  if (arguments->attn1.key_value != NULL)
    return ds_error(DS_E_NULL, "%s: attn1_key_value is given, must be None", op);
  DS_CHECK(check_norm("norm1", arguments->norm1_weight, arguments->norm1_bias, x));
  DS_CHECK(check_attention("attn1", &arguments->attn1, x, &shape->attn1));
  DS_CHECK(check_norm("norm2", arguments->norm2_weight, arguments->norm2_bias, x));
  DS_CHECK(arguments->attn2.q_weight == NULL ? check_no_second_attention(arguments)
                                             : check_attention("attn2", &arguments->attn2, x, &shape->attn2));
  DS_CHECK(check_norm("norm3", arguments->norm3_weight, arguments->norm3_bias, x));
  DS_CHECK(check_feed_forward(arguments, shape));
  DS_CHECK(ds_check_epsilon(op, "norm_epsilon", arguments->norm_epsilon));
  DS_CHECK(ds_check_activation_type(op, arguments->activation_type));
  DS_CHECK(ds_check_output(op, "output", output, shape->channels, "hidden_states", x));
  return ds_check_backend(op, context, x->device_type);
}
