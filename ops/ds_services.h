// What block_forward needs from outside the library: scratch memory, matrix products, attention. The host
// fills the table (ATen, cuBLASLt, or plain C in a test); the block never asks who did.
#ifndef DS_SERVICES_H
#define DS_SERVICES_H

#include "ds_linear_params.h"
#include "ds_tensor.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// result = softmax(query · keyᵀ / √head_size + mask) · value for each batch entry and head
// (Vaswani et al.: Attention Is All You Need, 2017; torch.nn.functional.scaled_dot_product_attention),
// softmax in float32. Strides count elements; the head dimension's elements are contiguous.
typedef struct ds_attention_params {
  ds_dtype dtype; // of every operand
  int64_t batch;
  int64_t heads;
  int64_t query_tokens;
  int64_t key_tokens;
  int64_t head_size;
  const void *query;        // [batch, query_tokens, heads, head_size]
  int64_t query_strides[3]; // batch, token, head
  const void *key;          // [batch, key_tokens, heads, head_size]
  int64_t key_strides[3];
  const void *value; // [batch, key_tokens, heads, head_size]
  int64_t value_strides[3];
  const void *mask; // added to the scores, broadcast to [batch, heads, query_tokens, key_tokens]; NULL: none
  int64_t mask_sizes[4];   // each 1 or the full size
  int64_t mask_strides[4]; // of these sizes
} ds_attention_params;

// All work goes to the stream and the device of the call. Memory handed out lives until the call of the
// operator ends.
typedef struct ds_services {
  void *host; // first argument of every function

  // `bytes` > 0 of scratch memory on the call's device, aligned to 256 bytes. Called once for each operator
  // call.
  ds_status (*allocate)(void *host, size_t bytes, void **memory);

  // output = input · weightᵀ + bias + residual. residual is only given where linear_adds_residual is set.
  ds_status (*linear)(void *host, const ds_linear_params *params);
  int linear_adds_residual;

  // Writes to *result the address of [batch, query_tokens, heads · head_size], contiguous, valid until the
  // next call of attention or the end of the operator's call.
  ds_status (*attention)(void *host, const ds_attention_params *params, const void **result);
} ds_services;

#ifdef __cplusplus
}
#endif
#endif
