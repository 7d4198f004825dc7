#include "ds_aten.h"
#include "ds_call.h"
#include "ds_layer_norm.h"
#include "ds_operators.h"

typedef struct layer_norm_arguments {
  const ds_tensor *input, *bias, *residual, *gamma, *beta;
  double epsilon;
} layer_norm_arguments;

#define FIELD(name) offsetof(layer_norm_arguments, name)

static const ds_argument plain_arguments[] = {
    {"input", FIELD(input), DS_ARGUMENT_TENSOR, DS_LAYOUT_ROWS, 0},
    {"gamma", FIELD(gamma), DS_ARGUMENT_TENSOR, DS_LAYOUT_CONTIGUOUS, 1},
    {"beta", FIELD(beta), DS_ARGUMENT_TENSOR, DS_LAYOUT_CONTIGUOUS, 1},
    {"epsilon", FIELD(epsilon), DS_ARGUMENT_FLOAT, DS_LAYOUT_ANY, 0}};
static const ds_signature plain = {"ds_diffusers::layer_norm", plain_arguments, 4, 1};

static void ds_layer_norm_boxed(StableIValue *stack, uint64_t argument_count, uint64_t result_count) {
  (void)argument_count, (void)result_count;
  ds_call call;
  layer_norm_arguments a;
  ds_status status = ds_call_begin(&call, &plain, stack, &a);
  if (status == DS_OK) status = ds_call_new_result(&call, 0, a.input->rank, a.input->sizes);
  if (status == DS_OK)
    status = ds_layer_norm(&call.context, a.input, a.gamma, a.beta, a.epsilon, &call.result_tensors[0]);
  ds_call_end(&call, status, stack);
}

static void ds_layer_norm_meta(StableIValue *stack, uint64_t argument_count, uint64_t result_count) {
  (void)argument_count, (void)result_count;
  ds_call call;
  ds_status status = ds_call_begin_meta(&call, &plain, stack);
  if (status == DS_OK) status = ds_aten_empty_like(call.inputs[0], DS_CONTIGUOUS_FORMAT, &call.results[0]);
  ds_call_end(&call, status, stack);
}

const ds_operator ds_layer_norm_operator = {
    "layer_norm",
    "layer_norm(Tensor input, Tensor? gamma=None, Tensor? beta=None, float epsilon=1e-05) -> Tensor",
    ds_layer_norm_boxed, ds_layer_norm_meta};

static const ds_argument residual_arguments[] = {
    {"input", FIELD(input), DS_ARGUMENT_TENSOR, DS_LAYOUT_ROWS, 0},
    {"bias", FIELD(bias), DS_ARGUMENT_TENSOR, DS_LAYOUT_CONTIGUOUS, 1},
    {"residual", FIELD(residual), DS_ARGUMENT_TENSOR, DS_LAYOUT_ROWS, 0},
    {"gamma", FIELD(gamma), DS_ARGUMENT_TENSOR, DS_LAYOUT_CONTIGUOUS, 1},
    {"beta", FIELD(beta), DS_ARGUMENT_TENSOR, DS_LAYOUT_CONTIGUOUS, 1},
    {"epsilon", FIELD(epsilon), DS_ARGUMENT_FLOAT, DS_LAYOUT_ANY, 0}};
static const ds_signature with_residual = {"ds_diffusers::layer_norm_residual_store_pre_ln_res",
                                           residual_arguments, 6, 2};

static void ds_layer_norm_residual_store_pre_ln_res_boxed(StableIValue *stack, uint64_t argument_count,
                                                          uint64_t result_count) {
  (void)argument_count, (void)result_count;
  ds_call call;
  layer_norm_arguments a;
  ds_status status = ds_call_begin(&call, &with_residual, stack, &a);
  if (status == DS_OK) status = ds_call_new_result(&call, 0, a.input->rank, a.input->sizes);
  if (status == DS_OK) status = ds_call_new_result(&call, 1, a.input->rank, a.input->sizes);
  if (status == DS_OK)
    status =
        ds_layer_norm_residual_store_pre_ln_res(&call.context, a.input, a.bias, a.residual, a.gamma, a.beta,
                                                a.epsilon, &call.result_tensors[0], &call.result_tensors[1]);
  ds_call_end(&call, status, stack);
}

static void ds_layer_norm_residual_store_pre_ln_res_meta(StableIValue *stack, uint64_t argument_count,
                                                         uint64_t result_count) {
  (void)argument_count, (void)result_count;
  ds_call call;
  ds_status status = ds_call_begin_meta(&call, &with_residual, stack);
  if (status == DS_OK) status = ds_aten_empty_like(call.inputs[0], DS_CONTIGUOUS_FORMAT, &call.results[0]);
  if (status == DS_OK) status = ds_aten_empty_like(call.inputs[0], DS_CONTIGUOUS_FORMAT, &call.results[1]);
  ds_call_end(&call, status, stack);
}

const ds_operator ds_layer_norm_residual_store_pre_ln_res_operator = {
    "layer_norm_residual_store_pre_ln_res",
    "layer_norm_residual_store_pre_ln_res(Tensor input, Tensor? bias, Tensor residual, Tensor? gamma=None, "
    "Tensor? beta=None, float epsilon=1e-05) -> (Tensor, Tensor)",
    ds_layer_norm_residual_store_pre_ln_res_boxed, ds_layer_norm_residual_store_pre_ln_res_meta};
