#include "ds_aten.h"
#include "ds_aten_services.h"
#include "ds_block.h"
#include "ds_call.h"
#include "ds_operators.h"

typedef struct block_forward_arguments {
  ds_block_arguments block;
  int64_t heads; // of both attentions
} block_forward_arguments;

#define FIELD(argument, field) .name = (argument), .offset = offsetof(block_forward_arguments, field)
#define REQUIRED .kind = DS_ARGUMENT_TENSOR
#define OPTIONAL .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .default_text = "None"
#define MATRIX .layout = DS_LAYOUT_REGULAR_ROWS
#define CONTIGUOUS .layout = DS_LAYOUT_CONTIGUOUS

// An attention's context and mask come before its weights; attn2's are left out, all of them, where there is
// no second attention. Its keys and values, where they are given, stand for its context and their weights.
static const ds_argument arguments[] = {
    {FIELD("hidden_states", block.hidden_states), REQUIRED, .layout = DS_LAYOUT_ROWS},
    {FIELD("attn1_context", block.attn1.context), OPTIONAL, MATRIX},
    {FIELD("attn1_mask", block.attn1.mask), OPTIONAL},
    {FIELD("attn2_context", block.attn2.context), OPTIONAL, MATRIX},
    {FIELD("attn2_mask", block.attn2.mask), OPTIONAL},
    {FIELD("attn2_key_value", block.attn2.key_value), OPTIONAL, MATRIX},
    {FIELD("norm1_weight", block.norm1_weight), OPTIONAL, CONTIGUOUS},
    {FIELD("norm1_bias", block.norm1_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("attn1_q_weight", block.attn1.q_weight), REQUIRED, MATRIX},
    {FIELD("attn1_q_bias", block.attn1.q_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("attn1_k_weight", block.attn1.k_weight), REQUIRED, MATRIX},
    {FIELD("attn1_k_bias", block.attn1.k_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("attn1_v_weight", block.attn1.v_weight), REQUIRED, MATRIX},
    {FIELD("attn1_v_bias", block.attn1.v_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("attn1_out_weight", block.attn1.out_weight), REQUIRED, MATRIX},
    {FIELD("attn1_out_bias", block.attn1.out_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("norm2_weight", block.norm2_weight), OPTIONAL, CONTIGUOUS},
    {FIELD("norm2_bias", block.norm2_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("attn2_q_weight", block.attn2.q_weight), OPTIONAL, MATRIX},
    {FIELD("attn2_q_bias", block.attn2.q_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("attn2_k_weight", block.attn2.k_weight), OPTIONAL, MATRIX},
    {FIELD("attn2_k_bias", block.attn2.k_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("attn2_v_weight", block.attn2.v_weight), OPTIONAL, MATRIX},
    {FIELD("attn2_v_bias", block.attn2.v_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("attn2_out_weight", block.attn2.out_weight), OPTIONAL, MATRIX},
    {FIELD("attn2_out_bias", block.attn2.out_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("norm3_weight", block.norm3_weight), OPTIONAL, CONTIGUOUS},
    {FIELD("norm3_bias", block.norm3_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("ff_in_weight", block.ff_in_weight), REQUIRED, MATRIX, .own_dtype = 1},
    {FIELD("ff_in_scale", block.ff_in_scale), OPTIONAL, CONTIGUOUS, .own_dtype = 1},
    {FIELD("ff_in_bias", block.ff_in_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("ff_out_weight", block.ff_out_weight), REQUIRED, MATRIX, .own_dtype = 1},
    {FIELD("ff_out_scale", block.ff_out_scale), OPTIONAL, CONTIGUOUS, .own_dtype = 1},
    {FIELD("ff_out_bias", block.ff_out_bias), OPTIONAL, CONTIGUOUS},
    {FIELD("heads", heads), .kind = DS_ARGUMENT_INT},
    {FIELD("activation_type", block.activation_type), .kind = DS_ARGUMENT_INT, .default_text = "3"},
    {FIELD("norm_epsilon", block.norm_epsilon), .kind = DS_ARGUMENT_FLOAT, .default_text = "1e-05"}};

static ds_status run(ds_call *call) {
  block_forward_arguments a;
  ds_call_arguments(call, &a);
  a.block.attn1.heads = a.heads;
  a.block.attn2.heads = a.heads;
  a.block.attn1.key_value = NULL; // not an argument of the operator
  DS_CHECK(ds_call_new_result(call, 0, a.block.hidden_states->rank, a.block.hidden_states->sizes));
  ds_aten_services services;
  ds_aten_services_begin(&services, &call->context, call->definition->name, a.block.hidden_states);
  const ds_status status =
      ds_block_forward(&call->context, &services.table, &a.block, &call->result_tensors[0]);
  ds_aten_services_end(&services);
  return status;
}

static ds_status meta(ds_call *call) {
  return ds_aten_empty_like(call->inputs[0], DS_CONTIGUOUS_FORMAT, &call->results[0]);
}

const ds_operator ds_block_forward_operator = {.name = "block_forward",
                                               DS_OPERATOR_ARGUMENTS(arguments),
                                               .positional_count = 1,
                                               .result_count = 1,
                                               .run = run,
                                               .meta = meta};
