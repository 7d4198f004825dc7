// What an attention service or kernel is told. Every field was checked by the caller; kernels do not check
// again.
#ifndef DS_ATTENTION_PARAMS_H
#define DS_ATTENTION_PARAMS_H

#include "ds_dtype.h"
#include <stdint.h>

// output = softmax(query · keyᵀ / √head_size + mask) · value for each batch entry and head (Vaswani et al.:
// Attention Is All You Need, 2017; torch.nn.functional.scaled_dot_product_attention), softmax in float32.
// Strides count elements; the head dimension's elements are contiguous.
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
  void *output;            // [batch, query_tokens, heads, head_size], contiguous
} ds_attention_params;

#endif
