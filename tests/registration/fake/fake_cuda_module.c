// A CUDA module whose "device memory" is the host's: the CPU kernels behind the module's interface, failing
// as the program's fake torch says.
#include "cpu/ds_kernels_cpu.h"
#include "cuda/ds_cuda_module.h"
#include <math.h>

extern int32_t ds_fake_must_fail(void);
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

// float32 alone.
static ds_status linear(const ds_linear_params *params, void *workspace, void *stream) {
  (void)stream;
  DS_CHECK(step());
  if (params->dtype != DS_FLOAT32) return ds_error(DS_E_UNSUPPORTED, "the stand-in multiplies float32 alone");
  *(double *)workspace = 1.0; // it has to be there
  ds_fake_count_product(params->allow_tf32);
  const float *input = params->input, *weight = params->weight, *bias = params->bias;
  const float *residual = params->residual;
  float *output = params->output;
  for (int64_t row = 0; row < params->rows; row++)
    for (int64_t col = 0; col < params->out_features; col++) {
      double sum = bias == NULL ? 0.0 : (double)bias[col];
      for (int64_t i = 0; i < params->in_features; i++)
        sum += (double)input[row * params->input_row_stride + i] *
               (double)weight[col * params->weight_row_stride + i];
      if (residual != NULL) sum += (double)residual[row * params->residual_row_stride + col];
      output[row * params->output_row_stride + col] = (float)sum;
    }
  return DS_OK;
}

// Masked attention is torch's, so that both ways are taken.
static int attention_serves(const ds_attention_params *params) {
  return params->mask == NULL;
}

static const float *token_of(const void *data, const int64_t *strides, int64_t batch, int64_t token,
                             int64_t head) {
  return (const float *)data + batch * strides[0] + token * strides[1] + head * strides[2];
}

// One query of one head: the exponentials of the scores, kept unscaled by the running sum.
static void attend(const ds_attention_params *params, int64_t batch, int64_t token, int64_t head) {
  const float *query = token_of(params->query, params->query_strides, batch, token, head);
  float *output = (float *)params->output +
                  ((batch * params->query_tokens + token) * params->heads + head) * params->head_size;
  double sum = 0.0;
  for (int64_t i = 0; i < params->head_size; i++) output[i] = 0.0f;
  for (int64_t key_token = 0; key_token < params->key_tokens; key_token++) {
    const float *key = token_of(params->key, params->key_strides, batch, key_token, head);
    const float *value = token_of(params->value, params->value_strides, batch, key_token, head);
    double score = 0.0;
    for (int64_t i = 0; i < params->head_size; i++) score += (double)query[i] * (double)key[i];
    const double weight = exp(score / sqrt((double)params->head_size));
    sum += weight;
    for (int64_t i = 0; i < params->head_size; i++) output[i] += (float)(weight * (double)value[i]);
  }
  for (int64_t i = 0; i < params->head_size; i++) output[i] = (float)(output[i] / sum);
}

static ds_status attention(const ds_attention_params *params, void *stream) {
  (void)stream;
  DS_CHECK(step());
  for (int64_t batch = 0; batch < params->batch; batch++)
    for (int64_t token = 0; token < params->query_tokens; token++)
      for (int64_t head = 0; head < params->heads; head++) attend(params, batch, token, head);
  return DS_OK;
}

static const ds_cuda_module module = {.version = DS_CUDA_MODULE_VERSION,
                                      .struct_bytes = sizeof(ds_cuda_module),
                                      .architectures = "none",
                                      .error_message = ds_error_message,
                                      .check_device = step,
#define DS_FAKE_LAUNCHER_FIELD(name) .name = name,
                                      DS_KERNELS(DS_FAKE_LAUNCHER_FIELD).linear_workspace_bytes = 256,
                                      .linear = linear,
                                      .attention_serves = attention_serves,
                                      .attention = attention};

__attribute__((visibility("default"))) const ds_cuda_module *ds_diffusers_cuda_module(void) {
  return &module;
}
