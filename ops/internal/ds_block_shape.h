// The checked sizes of a block: what validation finds out and the sequence of kernels then relies on.
#ifndef DS_BLOCK_SHAPE_H
#define DS_BLOCK_SHAPE_H

#include "ds_block.h"

typedef struct ds_attention_shape {
  int present;
  int64_t heads;
  int64_t inner;            // heads · head_size
  int64_t key_tokens;       // of each batch entry
  int64_t context_features; // columns of what keys and values are projected from, if they are
} ds_attention_shape;

typedef struct ds_block_shape {
  int64_t batch;
  int64_t tokens;
  int64_t rows; // batch · tokens
  int64_t channels;
  int64_t ff_inner; // columns of the gated activation's result
  ds_attention_shape attn1;
  ds_attention_shape attn2;
} ds_block_shape;

// Checks every argument of ds_block_forward but services, and fills *shape.
ds_status ds_block_check(const ds_context *context, const ds_block_arguments *arguments,
                         const ds_tensor *output, ds_block_shape *shape);

#endif
