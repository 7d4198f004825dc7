#include "ds_block_key.h"
#include <string.h>

static void add(ds_block_key *key, uint64_t word) {
  key->words[key->count++] = word;
}

static void add_tensor(ds_block_key *key, const ds_tensor *tensor) {
  add(key, tensor == NULL ? 0 : (uint64_t)(uintptr_t)tensor->data);
  if (tensor == NULL) return;
  add(key, (uint64_t)tensor->dtype << 32 | (uint32_t)tensor->rank);
  for (int32_t i = 0; i < tensor->rank; i++) {
    add(key, (uint64_t)tensor->sizes[i]);
    add(key, (uint64_t)tensor->strides[i]);
  }
}

static void add_attention(ds_block_key *key, const ds_attention_arguments *attention) {
  const ds_tensor *const tensors[] = {attention->context,  attention->mask,     attention->q_weight,
                                      attention->q_bias,   attention->k_weight, attention->k_bias,
                                      attention->v_weight, attention->v_bias,   attention->out_weight,
                                      attention->out_bias};
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) add_tensor(key, tensors[i]);
  add(key, (uint64_t)attention->heads);
}

void ds_block_write_key(const ds_block_call *call, const ds_tensor *output, ds_block_key *key) {
  const ds_block_arguments *a = call->arguments;
  const ds_tensor *const tensors[] = {
      a->hidden_states, a->norm1_weight, a->norm1_bias,   a->norm2_weight,    a->norm2_bias,
      a->norm3_weight,  a->norm3_bias,   a->ff_in_weight, a->ff_in_scale,     a->ff_in_bias,
      a->ff_out_weight, a->ff_out_scale, a->ff_out_bias,  a->attn2.key_value, output};
  uint64_t epsilon;
  memcpy(&epsilon, &a->norm_epsilon, sizeof epsilon);
  key->count = 0;
  add(key, (uint64_t)a->hidden_states->device_index);
  add(key, (uint64_t)(uintptr_t)call->memory);
  add(key, epsilon);
  add(key, (uint64_t)a->activation_type);
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) add_tensor(key, tensors[i]);
  add_attention(key, &a->attn1);
  add_attention(key, &a->attn2);
}
