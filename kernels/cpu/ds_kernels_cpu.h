// Entry points of the CPU kernels. Parameters were checked by the caller; rows are spread over the threads of
// `parallel_for` (NULL: the calling thread), small work stays on the calling thread. Each returns DS_OK, the
// status of a failed parallel_for, DS_E_MEMORY where scratch for a long row could not be had (the output is
// then unspecified), or DS_E_VALUE for an environment that names an unknown instruction set
// (ds_cpu_dispatch.h).
#ifndef DS_KERNELS_CPU_H
#define DS_KERNELS_CPU_H

#include "../ds_bias_add_params.h"
#include "../ds_gated_activation_params.h"
#include "../ds_layer_norm_params.h"
#include "../ds_parallel.h"

#ifdef __cplusplus
extern "C" {
#endif

// A new operator adds its line here.
#define DS_CPU_KERNELS(X)                                                                                    \
  X(layer_norm)                                                                                              \
  X(gated_activation)                                                                                        \
  X(bias_add)

ds_status ds_layer_norm_cpu(const ds_layer_norm_params *params, ds_parallel_for_fn parallel_for);
ds_status ds_gated_activation_cpu(const ds_gated_activation_params *params, ds_parallel_for_fn parallel_for);
ds_status ds_bias_add_cpu(const ds_bias_add_params *params, ds_parallel_for_fn parallel_for);

#ifdef __cplusplus
}
#endif
#endif
