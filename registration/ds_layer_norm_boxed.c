#include "ds_aten.h"
#include "ds_call.h"
#include "ds_layer_norm.h"
#include "ds_operators.h"

typedef struct layer_norm_arguments {
  const ds_tensor *input, *bias, *residual, *gamma, *beta;
  double epsilon;
} layer_norm_arguments;

#define FIELD(field) .name = #field, .offset = offsetof(layer_norm_arguments, field)

static const ds_argument plain_arguments[] = {
    {FIELD(input), .kind = DS_ARGUMENT_TENSOR, .layout = DS_LAYOUT_ROWS},
    {FIELD(gamma), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS,
     .default_text = "None"},
    {FIELD(beta), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS,
     .default_text = "None"},
    {FIELD(epsilon), .kind = DS_ARGUMENT_FLOAT, .default_text = "1e-05"}};

static ds_status run_plain(ds_call *call) {
  layer_norm_arguments a;
  ds_call_arguments(call, &a);
  DS_CHECK(ds_call_new_result(call, 0, a.input->rank, a.input->sizes));
  return ds_layer_norm(&call->context, a.input, a.gamma, a.beta, a.epsilon, &call->result_tensors[0]);
}

static ds_status meta_plain(ds_call *call) {
  return ds_aten_empty_like(call->inputs[0], DS_CONTIGUOUS_FORMAT, &call->results[0]);
}

const ds_operator ds_layer_norm_operator = {.name = "layer_norm",
                                            DS_OPERATOR_ARGUMENTS(plain_arguments),
                                            .result_count = 1,
                                            .run = run_plain,
                                            .meta = meta_plain};

static const ds_argument residual_arguments[] = {
    {FIELD(input), .kind = DS_ARGUMENT_TENSOR, .layout = DS_LAYOUT_ROWS},
    {FIELD(bias), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS},
    {FIELD(residual), .kind = DS_ARGUMENT_TENSOR, .layout = DS_LAYOUT_ROWS},
    {FIELD(gamma), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS,
     .default_text = "None"},
    {FIELD(beta), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS,
     .default_text = "None"},
    {FIELD(epsilon), .kind = DS_ARGUMENT_FLOAT, .default_text = "1e-05"}};

static ds_status run_with_residual(ds_call *call) {
  layer_norm_arguments a;
  ds_call_arguments(call, &a);
  DS_CHECK(ds_call_new_result(call, 0, a.input->rank, a.input->sizes));
  DS_CHECK(ds_call_new_result(call, 1, a.input->rank, a.input->sizes));
  return ds_layer_norm_residual_store_pre_ln_res(&call->context, a.input, a.bias, a.residual, a.gamma, a.beta,
                                                 a.epsilon, &call->result_tensors[0],
                                                 &call->result_tensors[1]);
}

static ds_status meta_with_residual(ds_call *call) {
  DS_CHECK(ds_aten_empty_like(call->inputs[0], DS_CONTIGUOUS_FORMAT, &call->results[0]));
  return ds_aten_empty_like(call->inputs[0], DS_CONTIGUOUS_FORMAT, &call->results[1]);
}

const ds_operator ds_layer_norm_residual_store_pre_ln_res_operator = {
    .name = "layer_norm_residual_store_pre_ln_res",
    DS_OPERATOR_ARGUMENTS(residual_arguments),
    .result_count = 2,
    .run = run_with_residual,
    .meta = meta_with_residual};
