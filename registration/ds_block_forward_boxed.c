#include "ds_aten.h"
#include "ds_aten_services.h"
#include "ds_block.h"
#include "ds_call.h"
#include "ds_operators.h"

typedef struct block_forward_arguments {
  ds_block_arguments block;
  int64_t heads; // of both attentions
} block_forward_arguments;

#define CONTIGUOUS(name, field)                                                                              \
  {                                                                                                          \
    name, offsetof(block_forward_arguments, block.field), DS_ARGUMENT_OPTIONAL_TENSOR, DS_LAYOUT_CONTIGUOUS, \
        "None"                                                                                               \
  }
#define MATRIX(name, field, optional)                                                                        \
  {                                                                                                          \
    name, offsetof(block_forward_arguments, block.field),                                                    \
        (optional) ? DS_ARGUMENT_OPTIONAL_TENSOR : DS_ARGUMENT_TENSOR, DS_LAYOUT_REGULAR_ROWS,               \
        (optional) ? "None" : NULL                                                                           \
  }
#define MASK(name, field)                                                                                    \
  { name, offsetof(block_forward_arguments, block.field), DS_ARGUMENT_OPTIONAL_TENSOR, DS_LAYOUT_ANY, "None" }

// An attention's context and mask come before its weights; attn2's are left out, all of them, where there is
// no second attention.
static const ds_argument arguments[] = {
    {"hidden_states", offsetof(block_forward_arguments, block.hidden_states), DS_ARGUMENT_TENSOR,
     DS_LAYOUT_ROWS, NULL},
    MATRIX("attn1_context", attn1.context, 1),
    MASK("attn1_mask", attn1.mask),
    MATRIX("attn2_context", attn2.context, 1),
    MASK("attn2_mask", attn2.mask),
    CONTIGUOUS("norm1_weight", norm1_weight),
    CONTIGUOUS("norm1_bias", norm1_bias),
    MATRIX("attn1_q_weight", attn1.q_weight, 0),
    CONTIGUOUS("attn1_q_bias", attn1.q_bias),
    MATRIX("attn1_k_weight", attn1.k_weight, 0),
    CONTIGUOUS("attn1_k_bias", attn1.k_bias),
    MATRIX("attn1_v_weight", attn1.v_weight, 0),
    CONTIGUOUS("attn1_v_bias", attn1.v_bias),
    MATRIX("attn1_out_weight", attn1.out_weight, 0),
    CONTIGUOUS("attn1_out_bias", attn1.out_bias),
    CONTIGUOUS("norm2_weight", norm2_weight),
    CONTIGUOUS("norm2_bias", norm2_bias),
    MATRIX("attn2_q_weight", attn2.q_weight, 1),
    CONTIGUOUS("attn2_q_bias", attn2.q_bias),
    MATRIX("attn2_k_weight", attn2.k_weight, 1),
    CONTIGUOUS("attn2_k_bias", attn2.k_bias),
    MATRIX("attn2_v_weight", attn2.v_weight, 1),
    CONTIGUOUS("attn2_v_bias", attn2.v_bias),
    MATRIX("attn2_out_weight", attn2.out_weight, 1),
    CONTIGUOUS("attn2_out_bias", attn2.out_bias),
    CONTIGUOUS("norm3_weight", norm3_weight),
    CONTIGUOUS("norm3_bias", norm3_bias),
    MATRIX("ff_in_weight", ff_in_weight, 0),
    CONTIGUOUS("ff_in_scale", ff_in_scale),
    CONTIGUOUS("ff_in_bias", ff_in_bias),
    MATRIX("ff_out_weight", ff_out_weight, 0),
    CONTIGUOUS("ff_out_scale", ff_out_scale),
    CONTIGUOUS("ff_out_bias", ff_out_bias),
    {"heads", offsetof(block_forward_arguments, heads), DS_ARGUMENT_INT, DS_LAYOUT_ANY, NULL},
    {"activation_type", offsetof(block_forward_arguments, block.activation_type), DS_ARGUMENT_INT,
     DS_LAYOUT_ANY, "3"},
    {"norm_epsilon", offsetof(block_forward_arguments, block.norm_epsilon), DS_ARGUMENT_FLOAT, DS_LAYOUT_ANY,
     "1e-05"}};

static ds_status run(ds_call *call) {
  block_forward_arguments a;
  ds_call_arguments(call, &a);
  a.block.attn1.heads = a.heads;
  a.block.attn2.heads = a.heads;
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
