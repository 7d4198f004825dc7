#include "ds_gated_activation.h"
#include "ds_check.h"
#include "ds_run.h"

static const char op[] = "ds_diffusers::gated_activation";

static ds_status check_activation(const ds_tensor *activation) {
  DS_CHECK(ds_check_tensor(op, "activation", activation));
  if (activation->rank < 1 || activation->sizes[activation->rank - 1] % 2 != 0)
    return ds_shape_error(op, "activation", activation, "of rank 1 or more with an even last dimension");
  return DS_OK;
}

ds_status ds_gated_activation_sizes(const ds_tensor *activation, int64_t *sizes) {
  DS_CHECK(check_activation(activation));
  const int32_t last = activation->rank - 1;
  for (int32_t i = 0; i < last; i++) sizes[i] = activation->sizes[i];
  sizes[last] = activation->sizes[last] / 2;
  return DS_OK;
}

ds_status ds_gated_activation(const ds_context *context, const ds_tensor *activation, const ds_tensor *bias,
                              int64_t activation_type, const ds_tensor *output) {
  DS_CHECK(check_activation(activation));
  const int64_t cols = activation->sizes[activation->rank - 1] / 2;
  DS_CHECK(ds_check_optional_vector(op, "bias", bias, 2 * cols, "the size of activation's last dimension",
                                    "activation", activation));
  DS_CHECK(ds_check_activation_type(op, activation_type));
  DS_CHECK(ds_check_output(op, "output", output, cols, "activation", activation));
  DS_CHECK(ds_check_backend(op, context, activation->device_type));
  if (ds_tensor_numel(activation) == 0) return DS_OK;

  ds_gated_activation_params params = {.dtype = activation->dtype,
                                       .rows = ds_tensor_numel(output) / cols,
                                       .cols = cols,
                                       .bias = bias == NULL ? NULL : bias->data,
                                       .activation_type = (ds_activation_type)activation_type,
                                       .output = output->data};
  DS_CHECK(ds_tensor_rows("activation", activation, -1, &params.input));
  return ds_run_gated_activation(context, activation->device_type, &params);
}
