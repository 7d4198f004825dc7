// Runs a kernel where its tensors are: one function for each kernel of DS_KERNELS.
#ifndef DS_RUN_H
#define DS_RUN_H

#include "ds_context.h"
#include "ds_tensor.h"

// DS_OK where kernels can run on `device_type`: DS_E_UNSUPPORTED, with a message that names `op`, for CUDA
// without a module.
ds_status ds_check_backend(const char *op, const ds_context *context, ds_device_type device_type);

// ds_run_layer_norm, ds_run_gated_activation, …: the CPU kernel on the context's threads, or the CUDA
// module's launcher on the context's stream. The backend was checked. context NULL: the CPU, calling thread
// alone.
#define DS_DECLARE_RUN(name)                                                                                 \
  ds_status ds_run_##name(const ds_context *context, ds_device_type device_type,                             \
                          const ds_##name##_params *params);
DS_KERNELS(DS_DECLARE_RUN)
#undef DS_DECLARE_RUN

#endif
