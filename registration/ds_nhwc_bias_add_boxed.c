#include "ds_aten.h"
#include "ds_call.h"
#include "ds_nhwc_bias_add.h"
#include "ds_operators.h"

typedef struct nhwc_bias_add_arguments {
  const ds_tensor *activation, *bias, *other, *other_bias;
} nhwc_bias_add_arguments;

#define FIELD(field) .name = #field, .offset = offsetof(nhwc_bias_add_arguments, field)

static const ds_argument arguments[] = {
    {FIELD(activation), .kind = DS_ARGUMENT_TENSOR},
    {FIELD(bias), .kind = DS_ARGUMENT_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS},
    {FIELD(other), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .default_text = "None"},
    {FIELD(other_bias), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS,
     .default_text = "None"}};

static ds_status run(ds_call *call) {
  nhwc_bias_add_arguments a;
  ds_call_arguments(call, &a);
  DS_CHECK(ds_call_new_result_like(call, 0));
  return ds_nhwc_bias_add(&call->context, a.activation, a.bias, a.other, a.other_bias,
                          &call->result_tensors[0]);
}

static ds_status meta(ds_call *call) {
  return ds_aten_empty_like(call->inputs[0], DS_PRESERVE_FORMAT, &call->results[0]);
}

const ds_operator ds_nhwc_bias_add_operator = {
    .name = "nhwc_bias_add", DS_OPERATOR_ARGUMENTS(arguments), .result_count = 1, .run = run, .meta = meta};
