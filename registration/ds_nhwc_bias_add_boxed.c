#include "ds_aten.h"
#include "ds_call.h"
#include "ds_nhwc_bias_add.h"
#include "ds_operators.h"

typedef struct nhwc_bias_add_arguments {
  const ds_tensor *activation, *bias, *other, *other_bias;
} nhwc_bias_add_arguments;

#define FIELD(name) offsetof(nhwc_bias_add_arguments, name)

static const ds_argument arguments[] = {
    {"activation", FIELD(activation), DS_ARGUMENT_TENSOR, DS_LAYOUT_ANY, 0},
    {"bias", FIELD(bias), DS_ARGUMENT_TENSOR, DS_LAYOUT_CONTIGUOUS, 0},
    {"other", FIELD(other), DS_ARGUMENT_TENSOR, DS_LAYOUT_ANY, 1},
    {"other_bias", FIELD(other_bias), DS_ARGUMENT_TENSOR, DS_LAYOUT_CONTIGUOUS, 1}};
static const ds_signature signature = {"ds_diffusers::nhwc_bias_add", arguments, 4, 1};

static void ds_nhwc_bias_add_boxed(StableIValue *stack, uint64_t argument_count, uint64_t result_count) {
  (void)argument_count, (void)result_count;
  ds_call call;
  nhwc_bias_add_arguments a;
  ds_status status = ds_call_begin(&call, &signature, stack, &a);
  if (status == DS_OK) status = ds_call_new_result_like(&call, 0);
  if (status == DS_OK)
    status =
        ds_nhwc_bias_add(&call.context, a.activation, a.bias, a.other, a.other_bias, &call.result_tensors[0]);
  ds_call_end(&call, status, stack);
}

static void ds_nhwc_bias_add_meta(StableIValue *stack, uint64_t argument_count, uint64_t result_count) {
  (void)argument_count, (void)result_count;
  ds_call call;
  ds_status status = ds_call_begin_meta(&call, &signature, stack);
  if (status == DS_OK) status = ds_aten_empty_like(call.inputs[0], DS_PRESERVE_FORMAT, &call.results[0]);
  ds_call_end(&call, status, stack);
}

const ds_operator ds_nhwc_bias_add_operator = {
    "nhwc_bias_add",
    "nhwc_bias_add(Tensor activation, Tensor bias, Tensor? other=None, Tensor? other_bias=None) -> Tensor",
    ds_nhwc_bias_add_boxed, ds_nhwc_bias_add_meta};
