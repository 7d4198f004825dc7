#include "ds_run.h"
#include "cpu/ds_kernels_cpu.h"

ds_status ds_check_backend(const char *op, const ds_context *context, ds_device_type device_type) {
  if (device_type == DS_CPU || (context != NULL && context->cuda != NULL)) return DS_OK;
  return ds_error(DS_E_UNSUPPORTED, "%s: the tensors are on a CUDA device, but no CUDA module was given", op);
}

// The module keeps its own message buffer, being a library of its own.
static ds_status from_module(const ds_context *context, ds_status status) {
  return status == DS_OK ? DS_OK : ds_error(status, "%s", context->cuda->error_message());
}

#define DS_DEFINE_RUN(name)                                                                                  \
  ds_status ds_run_##name(const ds_context *context, ds_device_type device_type,                             \
                          const ds_##name##_params *params) {                                                \
    if (device_type == DS_CPU)                                                                               \
      return ds_##name##_cpu(params, context == NULL ? NULL : context->parallel_for);                        \
    return from_module(context, context->cuda->name(params, context->stream));                               \
  }
DS_KERNELS(DS_DEFINE_RUN)
#undef DS_DEFINE_RUN
