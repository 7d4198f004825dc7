#include "ds_aten.h"
#include "ds_call.h"
#include "ds_gated_activation.h"
#include "ds_operators.h"

typedef struct gated_activation_arguments {
  const ds_tensor *activation, *bias;
  int64_t activation_type;
} gated_activation_arguments;

#define FIELD(name) offsetof(gated_activation_arguments, name)

static const ds_argument arguments[] = {
    {"activation", FIELD(activation), DS_ARGUMENT_TENSOR, DS_LAYOUT_ROWS, 0},
    {"bias", FIELD(bias), DS_ARGUMENT_TENSOR, DS_LAYOUT_CONTIGUOUS, 1},
    {"activation_type", FIELD(activation_type), DS_ARGUMENT_INT, DS_LAYOUT_ANY, 0}};
static const ds_signature signature = {"ds_diffusers::gated_activation", arguments, 3, 1};

static void ds_gated_activation_boxed(StableIValue *stack, uint64_t argument_count, uint64_t result_count) {
  (void)argument_count, (void)result_count;
  ds_call call;
  gated_activation_arguments a;
  int64_t sizes[DS_MAX_RANK];
  ds_status status = ds_call_begin(&call, &signature, stack, &a);
  if (status == DS_OK) status = ds_gated_activation_sizes(a.activation, sizes);
  if (status == DS_OK) status = ds_call_new_result(&call, 0, a.activation->rank, sizes);
  if (status == DS_OK)
    status =
        ds_gated_activation(&call.context, a.activation, a.bias, a.activation_type, &call.result_tensors[0]);
  ds_call_end(&call, status, stack);
}

static void ds_gated_activation_meta(StableIValue *stack, uint64_t argument_count, uint64_t result_count) {
  (void)argument_count, (void)result_count;
  ds_call call;
  // glu gives the shape, but keeps the order of its input's strides.
  AtenTensorHandle halved = NULL;
  ds_status status = ds_call_begin_meta(&call, &signature, stack);
  if (status == DS_OK) status = ds_aten_glu(call.inputs[0], &halved);
  if (status == DS_OK) status = ds_aten_empty_like(halved, DS_CONTIGUOUS_FORMAT, &call.results[0]);
  ds_torch_release(&halved);
  ds_call_end(&call, status, stack);
}

const ds_operator ds_gated_activation_operator = {
    "gated_activation", "gated_activation(Tensor activation, Tensor? bias, int activation_type) -> Tensor",
    ds_gated_activation_boxed, ds_gated_activation_meta};
