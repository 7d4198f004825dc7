#include "ds_layer_norm.h"
#include "ds_check.h"
#include "ds_run.h"

static const char last_dimension[] = "the size of input's last dimension";

// What both operators check and pass on alike.
static ds_status prepare(const char *op, const ds_context *context, const ds_tensor *input,
                         const ds_tensor *gamma, const ds_tensor *beta, double epsilon,
                         const ds_tensor *output, ds_layer_norm_params *params) {
  DS_CHECK(ds_check_tensor(op, "input", input));
  if (input->rank < 1 || input->sizes[input->rank - 1] < 1)
    return ds_shape_error(op, "input", input, "of rank 1 or more with a last dimension of 1 or more");
  const int64_t cols = input->sizes[input->rank - 1];
  DS_CHECK(ds_check_optional_vector(op, "gamma", gamma, cols, last_dimension, "input", input));
  DS_CHECK(ds_check_optional_vector(op, "beta", beta, cols, last_dimension, "input", input));
  DS_CHECK(ds_check_epsilon(op, "epsilon", epsilon));
  DS_CHECK(ds_check_output(op, "output", output, cols, "input", input));
  DS_CHECK(ds_check_backend(op, context, input->device_type));

  *params = (ds_layer_norm_params){.dtype = input->dtype,
                                   .rows = ds_tensor_numel(input) / cols,
                                   .cols = cols,
                                   .epsilon = (float)epsilon,
                                   .gamma = gamma == NULL ? NULL : gamma->data,
                                   .beta = beta == NULL ? NULL : beta->data,
                                   .output = output->data};
  return ds_tensor_rows("input", input, -1, &params->input);
}

ds_status ds_layer_norm(const ds_context *context, const ds_tensor *input, const ds_tensor *gamma,
                        const ds_tensor *beta, double epsilon, const ds_tensor *output) {
  ds_layer_norm_params params;
  DS_CHECK(prepare("ds_diffusers::layer_norm", context, input, gamma, beta, epsilon, output, &params));
  return params.rows == 0 ? DS_OK : ds_run_layer_norm(context, input->device_type, &params);
}

ds_status ds_layer_norm_residual_store_pre_ln_res(const ds_context *context, const ds_tensor *input,
                                                  const ds_tensor *bias, const ds_tensor *residual,
                                                  const ds_tensor *gamma, const ds_tensor *beta,
                                                  double epsilon, const ds_tensor *output,
                                                  const ds_tensor *sum) {
  static const char op[] = "ds_diffusers::layer_norm_residual_store_pre_ln_res";
  ds_layer_norm_params params;
  DS_CHECK(prepare(op, context, input, gamma, beta, epsilon, output, &params));
  DS_CHECK(ds_check_optional_vector(op, "bias", bias, params.cols, last_dimension, "input", input));
  DS_CHECK(ds_check_same_sizes(op, "residual", residual, "input", input));
  DS_CHECK(ds_check_output(op, "sum", sum, params.cols, "input", input));
  DS_CHECK(ds_tensor_rows("residual", residual, -1, &params.residual));
  params.bias = bias == NULL ? NULL : bias->data;
  params.sum = sum->data;
  return params.rows == 0 ? DS_OK : ds_run_layer_norm(context, input->device_type, &params);
}
