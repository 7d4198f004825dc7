#include "ds_aten_services.h"
#include "ds_aten.h"
#include "ds_aten_linear.h"
#include "ds_operator.h"
#include "ds_torch_cuda.h"
#include <string.h>

static uintptr_t aligned(uintptr_t address) {
  return (address + DS_SCRATCH_ALIGNMENT - 1) / DS_SCRATCH_ALIGNMENT * DS_SCRATCH_ALIGNMENT;
}

static ds_status allocate(void *host, size_t bytes, void **memory) {
  ds_aten_services *self = host;
  // torch aligns to 64 bytes on the CPU and to 512 on CUDA; the slack makes it what was promised on both.
  const int64_t total = (int64_t)(bytes + DS_SCRATCH_ALIGNMENT);
  const int64_t stride = 1;
  DS_CHECK(ds_torch_empty_strided(1, &total, &stride, aoti_torch_dtype_uint8(), &self->like, &self->scratch));
  void *data = NULL;
  DS_CHECK(DS_TORCH(aoti_torch_get_data_ptr, (self->scratch, &data)));
  *memory = (void *)aligned((uintptr_t)data);
  return DS_OK;
}

static ds_status linear_cpu(void *host, const ds_linear_params *params) {
  const ds_aten_services *self = host;
  return ds_aten_linear_cpu(self->context, params, &self->like);
}

// The module's message, after the operator's name.
static ds_status from_module(const ds_aten_services *self, ds_status status) {
  if (status == DS_OK) return DS_OK;
  return ds_error(status, DS_NAMESPACE "::%s: %s", self->op, self->context->cuda->error_message());
}

// Asks torch once for all products of the call.
static ds_status find_precision(ds_aten_services *self) {
  if (self->like.dtype != DS_FLOAT32 || self->precision_is_known) return DS_OK;
  DS_CHECK(ds_torch_cuda_allows_tf32(&self->allow_tf32));
  self->precision_is_known = self->asked_torch = 1;
  return DS_OK;
}

static ds_status linear_cuda(void *host, const ds_linear_params *params) {
  ds_aten_services *self = host;
  const ds_cuda_module *cuda = self->context->cuda;
  ds_linear_params product = *params;
  DS_CHECK(find_precision(self));
  product.allow_tf32 = self->allow_tf32;
  return from_module(self, cuda->linear(&product, self->context->stream));
}

static int gated_linear_serves(void *host, const ds_gated_linear_params *params) {
  const ds_aten_services *self = host;
  return self->context->cuda->gated_linear_serves(params);
}

static ds_status gated_linear(void *host, const ds_gated_linear_params *params) {
  const ds_aten_services *self = host;
  return from_module(self, self->context->cuda->gated_linear(params, self->context->stream));
}

static int quantized_linear_serves(void *host, const ds_quantized_linear_params *params) {
  const ds_aten_services *self = host;
  return self->context->cuda->quantized_linear_serves(params);
}

static ds_status quantized_linear(void *host, const ds_quantized_linear_params *params) {
  const ds_aten_services *self = host;
  return from_module(self, self->context->cuda->quantized_linear(params, self->context->stream));
}

// [batch, heads, tokens, head_size], as scaled_dot_product_attention takes it.
static ds_status heads_view(const ds_aten_services *self, const ds_attention_params *params, const void *data,
                            int64_t tokens, const int64_t *strides, AtenTensorHandle *view) {
  const int64_t view_sizes[4] = {params->batch, params->heads, tokens, params->head_size};
  const int64_t view_strides[4] = {strides[0], strides[2], strides[1], 1};
  return ds_torch_view(data, 4, view_sizes, view_strides, &self->like, view);
}

// A mask as scaled_dot_product_attention takes it.
typedef struct attention_mask {
  AtenTensorHandle view;   // NULL: no mask
  AtenTensorHandle memory; // of the view, where it is a copy
} attention_mask;

// Elements of a mask that ATen's CUDA kernels read at once.
static int64_t mask_vector(const ds_aten_services *self) {
  enum { VECTOR_BYTES = 16 };
  return VECTOR_BYTES / (int64_t)ds_dtype_bytes(self->like.dtype);
}

// ATen's CUDA kernels, cuDNN's among them, read each row of a mask in vectors without asking whether it
// begins and ends at one. On the CPU a copy of an unusual mask costs next to nothing.
static int mask_is_readable(const ds_aten_services *self, const ds_attention_params *params) {
  const int64_t vector = mask_vector(self);
  if ((uintptr_t)params->mask % ((size_t)vector * ds_dtype_bytes(self->like.dtype)) != 0) return 0;
  for (int i = 0; i < 3; i++)
    if (params->mask_sizes[i] > 1 && params->mask_strides[i] % vector != 0) return 0;
  return params->mask_sizes[3] % vector == 0 && params->mask_strides[3] == 1;
}

// A copy of the mask in which each row is padded to whole vectors. Broadcast dimensions stay broadcast.
static ds_status copy_mask(const ds_aten_services *self, const ds_attention_params *params,
                           attention_mask *mask) {
  const int64_t vector = mask_vector(self);
  int64_t sizes[4], padded_sizes[4], strides[4], stride = 1;
  for (int i = 3; i >= 0; i--) {
    sizes[i] = i < 3 && params->mask_strides[i] == 0 ? 1 : params->mask_sizes[i];
    padded_sizes[i] = i == 3 ? (sizes[i] + vector - 1) / vector * vector : sizes[i];
    strides[i] = stride;
    stride *= padded_sizes[i];
  }
  AtenTensorHandle given = NULL;
  void *data = NULL;
  const int32_t dtype_code = ds_torch_dtype_code(self->like.dtype);
  DS_CHECK(ds_torch_empty_strided(4, padded_sizes, strides, dtype_code, &self->like, &mask->memory));
  DS_CHECK(DS_TORCH(aoti_torch_get_data_ptr, (mask->memory, &data)));
  DS_CHECK(ds_torch_view(data, 4, sizes, strides, &self->like, &mask->view));
  DS_CHECK(ds_torch_view(params->mask, 4, sizes, params->mask_strides, &self->like, &given));
  const ds_status status = ds_aten_copy(mask->view, given);
  ds_torch_release(&given);
  return status;
}

static ds_status make_mask(const ds_aten_services *self, const ds_attention_params *params,
                           attention_mask *mask) {
  if (params->mask == NULL) return DS_OK;
  if (!mask_is_readable(self, params)) return copy_mask(self, params, mask);
  return ds_torch_view(params->mask, 4, params->mask_sizes, params->mask_strides, &self->like, &mask->view);
}

// Keeps `result` [batch, heads, tokens, head_size] as [batch, tokens, heads, head_size] in row-major order,
// which is how most of ATen's kernels write it, and gives its address.
static ds_status keep_attention(ds_aten_services *self, AtenTensorHandle result, const void **data) {
  AtenTensorHandle transposed = NULL, contiguous = NULL;
  ds_tensor description;
  ds_status status = ds_aten_transpose(result, 1, 2, &transposed);
  if (status == DS_OK) status = ds_aten_contiguous(transposed, &contiguous);
  if (status == DS_OK) status = ds_torch_describe(contiguous, &description);
  if (status == DS_OK && description.dtype != self->like.dtype)
    status = ds_error(DS_E_DTYPE,
                      DS_NAMESPACE
                      "::%s: scaled_dot_product_attention returned %s, must be %s; call it outside of "
                      "autocast",
                      self->op, ds_dtype_name(description.dtype), ds_dtype_name(self->like.dtype));
  ds_torch_release(&transposed);
  if (status != DS_OK) {
    ds_torch_release(&contiguous);
    return status;
  }
  ds_torch_release(&self->attention);
  self->attention = contiguous;
  *data = description.data;
  return DS_OK;
}

static ds_status attention_cuda(const ds_aten_services *self, const ds_attention_params *params,
                                const void **data) {
  *data = params->output;
  return from_module(self, self->context->cuda->attention(params, self->context->stream));
}

static ds_status attention(void *host, const ds_attention_params *params, const void **data) {
  ds_aten_services *self = host;
  if (self->like.device_type == DS_CUDA && self->context->cuda->attention_serves(params))
    return attention_cuda(self, params, data);
  self->asked_torch = 1;
  AtenTensorHandle query = NULL, key = NULL, value = NULL, result = NULL;
  attention_mask mask = {NULL, NULL};
  ds_status status =
      heads_view(self, params, params->query, params->query_tokens, params->query_strides, &query);
  if (status == DS_OK)
    status = heads_view(self, params, params->key, params->key_tokens, params->key_strides, &key);
  if (status == DS_OK)
    status = heads_view(self, params, params->value, params->key_tokens, params->value_strides, &value);
  if (status == DS_OK) status = make_mask(self, params, &mask);
  if (status == DS_OK) status = ds_aten_scaled_dot_product_attention(query, key, value, mask.view, &result);
  if (status == DS_OK) status = keep_attention(self, result, data);
  ds_torch_release(&result);
  ds_torch_release(&mask.view);
  ds_torch_release(&mask.memory);
  ds_torch_release(&value);
  ds_torch_release(&key);
  ds_torch_release(&query);
  return status;
}

// Work that torch had a part in is not recorded: its settings may change, and what it allocates is its own.
static ds_status enqueue(void *host, const void *key, size_t key_bytes, ds_status (*work)(void *argument),
                         void *argument) {
  ds_aten_services *self = host;
  ds_context *context = self->context;
  ds_cuda_recording recording;
  DS_CHECK(from_module(self, context->cuda->recording_begin(key, key_bytes, &context->stream, &recording)));
  if (recording.state == DS_CUDA_WORK_DONE) return DS_OK;
  const ds_status status = work(argument);
  context->cuda->recording_end(&recording, status == DS_OK && !self->asked_torch, &context->stream);
  return recording.state == DS_CUDA_WORK_DONE ? status : work(argument);
}

void ds_aten_services_begin(ds_aten_services *services, ds_context *context, const char *op,
                            const ds_tensor *like) {
  memset(services, 0, sizeof *services);
  const int on_cuda = like->device_type == DS_CUDA;
  services->table =
      (ds_services){.host = services,
                    .allocate = allocate,
                    .linear = on_cuda ? linear_cuda : linear_cpu,
                    .linear_adds_residual = on_cuda,
                    .linear_takes_quantized = !on_cuda && ds_aten_linear_widens(like->dtype),
                    .linear_workspace_bytes = on_cuda ? context->cuda->linear_workspace_bytes : 0,
                    .attention = attention,
                    .gated_linear_serves = on_cuda ? gated_linear_serves : NULL,
                    .gated_linear = on_cuda ? gated_linear : NULL,
                    .quantized_linear_serves = on_cuda ? quantized_linear_serves : NULL,
                    .quantized_linear = on_cuda ? quantized_linear : NULL,
                    .enqueue = on_cuda ? enqueue : NULL};
  services->context = context;
  services->op = op;
  services->like = *like;
}

void ds_aten_services_end(ds_aten_services *services) {
  ds_torch_release(&services->attention);
  ds_torch_release(&services->scratch);
}
