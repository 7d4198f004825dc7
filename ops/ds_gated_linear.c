#include "ds_gated_linear.h"
#include "ds_check.h"
#include "ds_run.h"
#include "ds_scratch.h"
#include <inttypes.h>

static const char op[] = "ds_diffusers::gated_linear";

static int64_t last_size(const ds_tensor *tensor) {
  return tensor->sizes[tensor->rank - 1];
}

static ds_status check_input(const ds_tensor *input) {
  DS_CHECK(ds_check_tensor(op, "input", input));
  if (input->rank < 1 || last_size(input) < 1)
    return ds_shape_error(op, "input", input, "of rank 1 or more with a last dimension of 1 or more");
  return DS_OK;
}

static ds_status check_weight(const ds_tensor *weight, const ds_tensor *input) {
  DS_CHECK(ds_check_alike(op, "weight", weight, "input", input));
  if (weight->rank != 2 || weight->sizes[0] % 2 != 0 || weight->sizes[1] != last_size(input))
    return ds_shape_error(op, "weight", weight,
                          "[N, %" PRId64 "], N even, with the size of input's last dimension",
                          last_size(input));
  if (weight->sizes[0] != 0 && weight->sizes[1] != 1 && weight->strides[1] != 1)
    return ds_error(DS_E_STRIDE, "%s: weight has stride %" PRId64 " in its last dimension, must be 1", op,
                    weight->strides[1]);
  return DS_OK;
}

ds_status ds_gated_linear_sizes(const ds_tensor *input, const ds_tensor *weight, int64_t *sizes) {
  DS_CHECK(check_input(input));
  DS_CHECK(check_weight(weight, input));
  const int32_t last = input->rank - 1;
  for (int32_t i = 0; i < last; i++) sizes[i] = input->sizes[i];
  sizes[last] = weight->sizes[0] / 2;
  return DS_OK;
}

// Where an input that has elements lies.
static ds_status set_input(const ds_tensor *input, ds_gated_linear_params *params) {
  ds_rows rows;
  DS_CHECK(ds_tensor_rows("input", input, -1, &rows));
  if (rows.dims != 1 || (params->in_features > 1 && rows.col_stride != 1))
    return ds_error(DS_E_STRIDE,
                    "%s: input has irregular strides, must have its rows at one stride and a contiguous "
                    "last dimension",
                    op);
  params->input = input->data;
  params->input_row_stride = rows.strides[0];
  return DS_OK;
}

// Memory for the result of the linear, [rows, 2 · cols], and for the workspace of its product.
typedef struct scratch {
  void *hidden, *workspace;
  size_t workspace_bytes;
} scratch;

static ds_status allocate(const ds_services *services, const ds_gated_linear_params *params,
                          scratch *memory) {
  ds_scratch_buffer buffers[2] = {{.bytes = 0}};
  size_t bytes;
  if (__builtin_mul_overflow((size_t)params->rows, 2 * (size_t)params->cols, &bytes) ||
      __builtin_mul_overflow(bytes, ds_dtype_bytes(params->dtype), &bytes) || bytes > PTRDIFF_MAX / 2)
    return ds_error(DS_E_MEMORY, "%s: the sizes of its arguments ask for more memory than there can be", op);
  buffers[0].bytes = bytes;
  buffers[1].bytes = ds_scratch_workspace_bytes(services, params->dtype, params->rows, 0);
  void *start = NULL;
  DS_CHECK(services->allocate(services->host, ds_scratch_plan(buffers, 2), &start));
  *memory = (scratch){(char *)start + buffers[0].offset, (char *)start + buffers[1].offset, buffers[1].bytes};
  return DS_OK;
}

static ds_status run_in_two_steps(const ds_context *context, const ds_services *services,
                                  ds_device_type device_type, const ds_gated_linear_params *params) {
  scratch memory = {NULL, NULL, 0};
  DS_CHECK(allocate(services, params, &memory));
  const ds_linear_params linear = {.dtype = params->dtype,
                                   .rows = params->rows,
                                   .in_features = params->in_features,
                                   .out_features = 2 * params->cols,
                                   .input = params->input,
                                   .input_row_stride = params->input_row_stride,
                                   .weight = params->weight,
                                   .weight_row_stride = params->weight_row_stride,
                                   .output = memory.hidden,
                                   .output_row_stride = 2 * params->cols,
                                   .workspace = memory.workspace,
                                   .workspace_bytes = memory.workspace_bytes};
  DS_CHECK(services->linear(services->host, &linear));
  const ds_gated_activation_params gate = {
      .dtype = params->dtype,
      .rows = params->rows,
      .cols = params->cols,
      .input = ds_rows_contiguous(memory.hidden, params->rows, 2 * params->cols),
      .bias = params->bias,
      .activation_type = params->activation_type,
      .output = params->output};
  return ds_run_gated_activation(context, device_type, &gate);
}

ds_status ds_gated_linear(const ds_context *context, const ds_services *services, const ds_tensor *input,
                          const ds_tensor *weight, const ds_tensor *bias, int64_t activation_type,
                          const ds_tensor *output) {
  DS_CHECK(check_input(input));
  DS_CHECK(check_weight(weight, input));
  DS_CHECK(ds_check_optional_vector(op, "bias", bias, weight->sizes[0], "the number of weight's rows",
                                    "input", input));
  DS_CHECK(ds_check_activation_type(op, activation_type));
  const int64_t cols = weight->sizes[0] / 2;
  DS_CHECK(ds_check_output(op, "output", output, cols, "input", input));
  DS_CHECK(ds_check_backend(op, context, input->device_type));
  if (ds_tensor_numel(output) == 0) return DS_OK;

  ds_gated_linear_params params = {.dtype = input->dtype,
                                   .rows = ds_tensor_numel(output) / cols,
                                   .in_features = last_size(input),
                                   .cols = cols,
                                   .weight = weight->data,
                                   .weight_row_stride = weight->strides[0],
                                   .bias = bias == NULL ? NULL : bias->data,
                                   .activation_type = (ds_activation_type)activation_type,
                                   .output = output->data,
                                   .output_row_stride = cols};
  DS_CHECK(set_input(input, &params));
  if (services->gated_linear_serves != NULL && services->gated_linear_serves(services->host, &params))
    return services->gated_linear(services->host, &params);
  return run_in_two_steps(context, services, input->device_type, &params);
}
