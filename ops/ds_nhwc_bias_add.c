#include "ds_nhwc_bias_add.h"
#include "ds_check.h"
#include "ds_run.h"

static const char op[] = "ds_diffusers::nhwc_bias_add";
static const char channels_of[] = "the number of activation's channels";

static ds_status check(const ds_context *context, const ds_tensor *activation, const ds_tensor *bias,
                       const ds_tensor *other, const ds_tensor *other_bias, const ds_tensor *output) {
  DS_CHECK(ds_check_tensor(op, "activation", activation));
  if (activation->rank != 3 && activation->rank != 4)
    return ds_shape_error(op, "activation", activation, "[B, S, C] or [N, C, H, W]");
  const int64_t channels = activation->sizes[activation->rank == 4 ? 1 : 2];
  DS_CHECK(ds_check_vector(op, "bias", bias, channels, channels_of, "activation", activation));
  if (other != NULL) DS_CHECK(ds_check_same_sizes(op, "other", other, "activation", activation));
  if (other_bias != NULL && other == NULL)
    return ds_error(DS_E_NULL, "%s: other is None, must be a tensor where other_bias is given", op);
  DS_CHECK(ds_check_optional_vector(op, "other_bias", other_bias, channels, channels_of, "activation",
                                    activation));
  DS_CHECK(ds_check_same_sizes(op, "output", output, "activation", activation));
  return ds_check_backend(op, context, activation->device_type);
}

ds_status ds_nhwc_bias_add(const ds_context *context, const ds_tensor *activation, const ds_tensor *bias,
                           const ds_tensor *other, const ds_tensor *other_bias, const ds_tensor *output) {
  DS_CHECK(check(context, activation, bias, other, other_bias, output));
  if (ds_tensor_numel(activation) == 0) return DS_OK;

  const int32_t channel_dim = activation->rank == 4 ? 1 : 2;
  ds_bias_add_params params = {.dtype = activation->dtype,
                               .cols = activation->sizes[channel_dim],
                               .bias = bias->data,
                               .other_bias = other_bias == NULL ? NULL : other_bias->data};
  params.rows = ds_tensor_numel(activation) / params.cols;
  DS_CHECK(ds_tensor_rows("activation", activation, channel_dim, &params.input));
  if (other != NULL) DS_CHECK(ds_tensor_rows("other", other, channel_dim, &params.other));
  DS_CHECK(ds_tensor_rows("output", output, channel_dim, &params.output));
  return ds_run_bias_add(context, activation->device_type, &params);
}
