#include "ds_aten.h"
#include "ds_call.h"
#include "ds_gated_activation.h"
#include "ds_operators.h"

typedef struct gated_activation_arguments {
  const ds_tensor *activation, *bias;
  int64_t activation_type;
} gated_activation_arguments;

#define FIELD(field) .name = #field, .offset = offsetof(gated_activation_arguments, field)

static const ds_argument arguments[] = {
    {FIELD(activation), .kind = DS_ARGUMENT_TENSOR, .layout = DS_LAYOUT_ROWS},
    {FIELD(bias), .kind = DS_ARGUMENT_OPTIONAL_TENSOR, .layout = DS_LAYOUT_CONTIGUOUS},
    {FIELD(activation_type), .kind = DS_ARGUMENT_INT}};

static ds_status run(ds_call *call) {
  gated_activation_arguments a;
  int64_t sizes[DS_MAX_RANK];
  ds_call_arguments(call, &a);
  DS_CHECK(ds_gated_activation_sizes(a.activation, sizes));
  DS_CHECK(ds_call_new_result(call, 0, a.activation->rank, sizes));
  return ds_gated_activation(&call->context, a.activation, a.bias, a.activation_type,
                             &call->result_tensors[0]);
}

static ds_status meta(ds_call *call) {
  // glu gives the shape, but keeps the order of its input's strides.
  AtenTensorHandle halved = NULL;
  ds_status status = ds_aten_glu(call->inputs[0], &halved);
  if (status == DS_OK) status = ds_aten_empty_like(halved, DS_CONTIGUOUS_FORMAT, &call->results[0]);
  ds_torch_release(&halved);
  return status;
}

const ds_operator ds_gated_activation_operator = {.name = "gated_activation",
                                                  DS_OPERATOR_ARGUMENTS(arguments),
                                                  .result_count = 1,
                                                  .run = run,
                                                  .meta = meta};
