// One call of a block on its way: its checked shape, how its projections are grouped, and where its buffers
// lie.
#ifndef DS_BLOCK_PLAN_H
#define DS_BLOCK_PLAN_H

#include "ds_block.h"
#include "ds_block_shape.h"
#include "ds_scratch.h"

// Scratch buffers; all but workspaces in the tensors' dtype with contiguous rows.
typedef enum ds_block_buffer {
  DS_BLOCK_NO_BUFFER,   // never planned
  DS_BLOCK_INPUT_COPY,  // [rows, channels]: hidden_states with regular rows, where its own are not
  DS_BLOCK_NORMALISED1, // [rows, channels]
  DS_BLOCK_QUERY1,      // [rows, inner], or [rows, 3 · inner] with key and value behind it in each row
  DS_BLOCK_KEY1,        // [key rows, inner], or [key rows, 2 · inner] with value behind it in each row
  DS_BLOCK_VALUE1,      // [key rows, inner]
  DS_BLOCK_HEADS1,      // [rows, inner]: the heads' results side by side
  DS_BLOCK_PRODUCT1,    // [rows, channels]: the bare output projection, where the linear service adds no
                        // residual
  DS_BLOCK_SUM1,        // [rows, channels]: the residual stream after the first attention
  DS_BLOCK_NORMALISED2,
  DS_BLOCK_QUERY2,
  DS_BLOCK_KEY2,
  DS_BLOCK_VALUE2,
  DS_BLOCK_HEADS2,
  DS_BLOCK_PRODUCT2,
  DS_BLOCK_SUM2,
  DS_BLOCK_NORMALISED3,
  DS_BLOCK_FF_HIDDEN,          // [rows, 2 · ff_inner], unless the gate is fused
  DS_BLOCK_FF_GATED,           // [rows, ff_inner]
  DS_BLOCK_FF_PRODUCT,         // [rows, channels]
  DS_BLOCK_FF_IN_WEIGHT,       // [features at once, channels]: rows of a quantised weight, dequantised
  DS_BLOCK_FF_OUT_WEIGHT,      // [features at once, ff_inner]
  DS_BLOCK_PROJECT1_WORKSPACE, // of the linear service, as the following
  DS_BLOCK_OUT1_WORKSPACE,
  DS_BLOCK_PROJECT2_WORKSPACE,
  DS_BLOCK_OUT2_WORKSPACE,
  DS_BLOCK_FF_IN_WORKSPACE,
  DS_BLOCK_FF_OUT_WORKSPACE,
  DS_BLOCK_BUFFERS
} ds_block_buffer;

// How the three projections of an attention are grouped into products: those whose weights (and biases) lie
// one behind the other in memory, and which read the same input, are one. Where keys and values are given,
// the query is projected alone, and they are read where they are, or copied to buffers of their own.
typedef enum ds_projection_grouping {
  DS_PROJECT_SEPARATELY,
  DS_PROJECT_KEY_VALUE_TOGETHER,
  DS_PROJECT_ALL_TOGETHER,
  DS_PROJECT_QUERY_ALONE,
  DS_PROJECT_QUERY_AND_COPY
} ds_projection_grouping;

typedef struct ds_block_call {
  const ds_context *context;
  const ds_services *services;
  const ds_block_arguments *arguments;
  ds_block_shape shape;
  ds_rows input;     // hidden_states
  ds_rows key_value; // attn2's keys and values, where they are given
  ds_device_type device_type;
  ds_dtype dtype;
  ds_projection_grouping grouping1;
  ds_projection_grouping grouping2;
  int gate_is_fused; // the feed-forward's first product and its gated activation are one step
  int ff_in_is_direct,
      ff_out_is_direct; // the product reads its quantised weight itself, and adds all there is
  ds_scratch_buffer buffers[DS_BLOCK_BUFFERS];
  char *memory;
} ds_block_call;

// Plans the buffers of a call whose fields up to dtype are set, and allocates them as one.
ds_status ds_block_plan(ds_block_call *call);

// The feed-forward's first product and its gated activation, without the addresses of input and output, and
// without that of the weight where it is quantised: it is dequantised as a whole then.
ds_gated_linear_params ds_block_gated_linear(const ds_block_call *call);

// The same, and the feed-forward's second product with bias and residual, for quantised weights, without the
// addresses of input, residual and output.
ds_quantized_linear_params ds_block_quantized_ff_in(const ds_block_call *call);
ds_quantized_linear_params ds_block_quantized_ff_out(const ds_block_call *call);

// Scales of each row of a quantised weight.
static inline int64_t ds_block_groups(const ds_tensor *scale) {
  return scale->rank == 1 ? 1 : scale->sizes[1];
}

// How many rows of a quantised weight are dequantised at once, for a product with as many output features.
int64_t ds_block_features_at_once(const ds_block_call *call, const ds_tensor *weight);

// The address of a buffer.
static inline void *ds_block_buffer_at(const ds_block_call *call, ds_block_buffer index) {
  return call->memory + call->buffers[index].offset;
}

// Whether hidden_states can be read as it is wherever regular rows are needed; else its copy is read.
static inline int ds_block_input_is_regular(const ds_block_call *call) {
  return call->input.dims == 1 && call->input.col_stride == 1;
}

#endif
