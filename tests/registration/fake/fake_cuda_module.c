// A CUDA module whose "device memory" is the host's: the CPU kernels behind the module's interface, failing
// as the program's fake torch says.
#include "cpu/ds_cpu_dispatch.h"
#include "cuda/ds_cuda_module.h"
#include <math.h>
#include <string.h>

extern int32_t ds_fake_must_fail(void);
extern int32_t ds_fake_may_fail(void);
extern void ds_fake_count_product(int32_t allow_tf32);

// Exported by the module.
const ds_cuda_module *ds_diffusers_cuda_module(void);

static ds_status step(void) {
  return ds_fake_must_fail() ? ds_error(DS_E_CUDA, "ds_diffusers: a CUDA failure on demand") : DS_OK;
}

#define DS_FAKE_LAUNCHER(name)                                                                               \
  static ds_status name(const ds_##name##_params *params, void *stream) {                                    \
    (void)stream;                                                                                            \
    DS_CHECK(step());                                                                                        \
    return ds_##name##_cpu(params, NULL);                                                                    \
  }
DS_KERNELS(DS_FAKE_LAUNCHER)

static double read_at(ds_dtype dtype, const void *data, int64_t index) {
  const ds_cpu_kernels *kernels;
  float value = NAN;
  if (ds_cpu_kernels_chosen(&kernels) == DS_OK)
    kernels->load(dtype, (const char *)data + index * (int64_t)ds_dtype_bytes(dtype), 1, &value);
  return (double)value;
}

static void write_at(ds_dtype dtype, void *data, int64_t index, double value) {
  const ds_cpu_kernels *kernels;
  const float rounded = (float)value;
  if (ds_cpu_kernels_chosen(&kernels) == DS_OK)
    kernels->store(dtype, &rounded, 1, (char *)data + index * (int64_t)ds_dtype_bytes(dtype));
}

// One element of the product, with the bias.
static double dot_product(const ds_linear_params *params, int64_t row, int64_t col) {
  double sum = params->bias == NULL ? 0.0 : read_at(params->dtype, params->bias, col);
  for (int64_t i = 0; i < params->in_features; i++)
    sum += read_at(params->dtype, params->input, row * params->input_row_stride + i) *
           read_at(params->dtype, params->weight, col * params->weight_row_stride + i);
  return sum;
}

static ds_status linear(const ds_linear_params *params, void *stream) {
  (void)stream;
  DS_CHECK(step());
  if (params->workspace_bytes != 0)
    memset(params->workspace, 0xff, params->workspace_bytes); // the product's own
  if (params->dtype == DS_FLOAT32) ds_fake_count_product(params->allow_tf32);
  for (int64_t row = 0; row < params->rows; row++)
    for (int64_t col = 0; col < params->out_features; col++) {
      double sum = dot_product(params, row, col);
      if (params->residual != NULL)
        sum += read_at(params->dtype, params->residual, row * params->residual_row_stride + col);
      write_at(params->dtype, params->output, row * params->output_row_stride + col, sum);
    }
  return DS_OK;
}

// Without a bias it is two steps, so that both ways are taken.
static int gated_linear_serves(const ds_gated_linear_params *params) {
  return params->dtype != DS_FLOAT32 && params->bias != NULL;
}

static double activated(ds_activation_type type, double gate) {
  return type == DS_ACTIVATION_GATED_SILU ? gate / (1 + exp(-gate)) : gate * 0.5 * erfc(-gate / sqrt(2.0));
}

static ds_status gated_linear(const ds_gated_linear_params *params, void *stream) {
  (void)stream;
  DS_CHECK(step());
  const ds_linear_params linear_params = {.dtype = params->dtype,
                                          .in_features = params->in_features,
                                          .input = params->input,
                                          .input_row_stride = params->input_row_stride,
                                          .weight = params->weight,
                                          .weight_row_stride = params->weight_row_stride,
                                          .bias = params->bias};
  for (int64_t row = 0; row < params->rows; row++)
    for (int64_t col = 0; col < params->cols; col++) {
      const double value = dot_product(&linear_params, row, col);
      const double gate = dot_product(&linear_params, row, params->cols + col);
      write_at(params->dtype, params->output, row * params->output_row_stride + col,
               value * activated(params->activation_type, gate));
    }
  return DS_OK;
}

// With a bias it is two steps, so that both ways are taken.
static int quantized_linear_serves(const ds_quantized_linear_params *params) {
  return params->bias == NULL;
}

static double quantized_dot_product(const ds_quantized_linear_params *params, int64_t row, int64_t col) {
  double sum = 0.0;
  for (int64_t i = 0; i < params->in_features; i++)
    sum += read_at(params->dtype, params->input, row * params->input_row_stride + i) *
           params->weight[col * params->weight_row_stride + i];
  return sum * (double)params->scale[col];
}

static ds_status quantized_linear(const ds_quantized_linear_params *params, void *stream) {
  (void)stream;
  DS_CHECK(step());
  for (int64_t row = 0; row < params->rows; row++)
    for (int64_t col = 0; col < params->cols; col++) {
      double result = quantized_dot_product(params, row, col);
      if (ds_quantized_linear_is_gated(params))
        result *= activated(params->gate, quantized_dot_product(params, row, params->cols + col));
      if (params->residual != NULL)
        result += read_at(params->dtype, params->residual, row * params->residual_row_stride + col);
      write_at(params->dtype, params->output, row * params->output_row_stride + col, result);
    }
  return DS_OK;
}

// Masked attention is torch's, so that both ways are taken.
static int attention_serves(const ds_attention_params *params) {
  return params->mask == NULL;
}

static int64_t offset_of(const int64_t *strides, int64_t batch, int64_t token, int64_t head) {
  return batch * strides[0] + token * strides[1] + head * strides[2];
}

// The exponential of the score of one key for one query.
static double weight_of(const ds_attention_params *params, int64_t query, int64_t key) {
  double score = 0.0;
  for (int64_t i = 0; i < params->head_size; i++)
    score += read_at(params->dtype, params->query, query + i) * read_at(params->dtype, params->key, key + i);
  return exp(score / sqrt((double)params->head_size));
}

// One query of one head.
static void attend(const ds_attention_params *params, int64_t batch, int64_t token, int64_t head) {
  const int64_t query = offset_of(params->query_strides, batch, token, head);
  const int64_t output = ((batch * params->query_tokens + token) * params->heads + head) * params->head_size;
  for (int64_t i = 0; i < params->head_size; i++) {
    double sum = 0.0, weighted = 0.0;
    for (int64_t other = 0; other < params->key_tokens; other++) {
      const double weight = weight_of(params, query, offset_of(params->key_strides, batch, other, head));
      const int64_t value = offset_of(params->value_strides, batch, other, head);
      sum += weight;
      weighted += weight * read_at(params->dtype, params->value, value + i);
    }
    write_at(params->dtype, params->output, output + i, weighted / sum);
  }
}

static ds_status attention(const ds_attention_params *params, void *stream) {
  (void)stream;
  DS_CHECK(step());
  for (int64_t batch = 0; batch < params->batch; batch++)
    for (int64_t token = 0; token < params->query_tokens; token++)
      for (int64_t head = 0; head < params->heads; head++) attend(params, batch, token, head);
  return DS_OK;
}

// In turn: work that is enqueued, work that is recorded, and work of which recording fails. Not where a call
// is to fail, as work that fails while it is recorded is tried once more.
static ds_status recording_begin(const void *key, size_t key_bytes, void **stream,
                                 ds_cuda_recording *recording) {
  static int turn;
  DS_CHECK(step());
  turn = ds_fake_may_fail() ? 0 : (turn + 1) % 3;
  *recording = (ds_cuda_recording){.state = turn == 0 ? DS_CUDA_WORK_PLAIN : DS_CUDA_WORK_RECORDED,
                                   .watched = turn == 1,
                                   .key = key,
                                   .key_bytes = key_bytes,
                                   .stream = *stream};
  if (turn != 0) *stream = recording;
  return DS_OK;
}

static void recording_end(ds_cuda_recording *recording, int replayable, void **stream) {
  *stream = recording->stream;
  recording->state = recording->state == DS_CUDA_WORK_RECORDED && !(replayable && recording->watched)
                         ? DS_CUDA_WORK_PLAIN
                         : DS_CUDA_WORK_DONE;
}

static const ds_cuda_module module = {.version = DS_CUDA_MODULE_VERSION,
                                      .struct_bytes = sizeof(ds_cuda_module),
                                      .architectures = "none",
                                      .error_message = ds_error_message,
                                      .check_device = step,
#define DS_FAKE_LAUNCHER_FIELD(name) .name = name,
                                      DS_KERNELS(DS_FAKE_LAUNCHER_FIELD).linear_workspace_bytes = 256,
                                      .linear = linear,
                                      .recording_begin = recording_begin,
                                      .recording_end = recording_end,
                                      .attention_serves = attention_serves,
                                      .attention = attention,
                                      .gated_linear_serves = gated_linear_serves,
                                      .gated_linear = gated_linear,
                                      .quantized_linear_serves = quantized_linear_serves,
                                      .quantized_linear = quantized_linear};

__attribute__((visibility("default"))) const ds_cuda_module *ds_diffusers_cuda_module(void) {
  return &module;
}
