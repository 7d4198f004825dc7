#include "ds_aten.h"
#include "ds_aten_services.h"
#include "ds_call.h"
#include "ds_gated_linear.h"
#include "ds_operators.h"

typedef struct gated_linear_arguments {
  const ds_tensor *input, *weight, *bias;
  int64_t activation_type;
} gated_linear_arguments;

#define FIELD(field) .name = #field, .offset = offsetof(gated_linear_arguments, field)

static const ds_argument arguments[] = {
    {FIELD(input), .kind = DS_ARGUMENT_TENSOR, .layout = DS_LAYOUT_REGULAR_ROWS},
    {FIELD(weight), .kind = DS_ARGUMENT_TENSOR, .layout = DS_LAYOUT_REGULAR_ROWS},
    {FIELD(bias), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS,
     .default_text = "None"},
    {FIELD(activation_type), .kind = DS_ARGUMENT_INT, .default_text = "3"}};

static ds_status run(ds_call *call) {
  gated_linear_arguments a;
  int64_t sizes[DS_MAX_RANK];
  ds_call_arguments(call, &a);
  DS_CHECK(ds_gated_linear_sizes(a.input, a.weight, sizes));
  DS_CHECK(ds_call_new_result(call, 0, a.input->rank, sizes));
  ds_aten_services services;
  ds_aten_services_begin(&services, &call->context, call->definition->name, a.input);
  const ds_status status = ds_gated_linear(&call->context, &services.table, a.input, a.weight, a.bias,
                                           a.activation_type, &call->result_tensors[0]);
  ds_aten_services_end(&services);
  return status;
}

static ds_status meta(ds_call *call) {
  // linear gives twice the width, and glu halves it; neither promises contiguous strides.
  AtenTensorHandle linear = NULL, halved = NULL;
  ds_status status = ds_aten_linear(call->inputs[0], call->inputs[1], &linear);
  if (status == DS_OK) status = ds_aten_glu(linear, &halved);
  if (status == DS_OK) status = ds_aten_empty_like(halved, DS_CONTIGUOUS_FORMAT, &call->results[0]);
  ds_torch_release(&halved);
  ds_torch_release(&linear);
  return status;
}

const ds_operator ds_gated_linear_operator = {
    .name = "gated_linear", DS_OPERATOR_ARGUMENTS(arguments), .result_count = 1, .run = run, .meta = meta};
