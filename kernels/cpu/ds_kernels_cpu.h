// Entry points of the CPU kernels. Parameters were checked by the caller; rows are spread over the threads of
// `parallel_for` (NULL: the calling thread). Each returns DS_OK, or the status of a failed parallel_for.
#ifndef DS_KERNELS_CPU_H
#define DS_KERNELS_CPU_H

#include "../ds_bias_add_params.h"
#include "../ds_gated_activation_params.h"
#include "../ds_layer_norm_params.h"
#include "../ds_parallel.h"

#ifdef __cplusplus
extern "C" {
#endif

ds_status ds_layer_norm_cpu(const ds_layer_norm_params *params, ds_parallel_for_fn parallel_for);
ds_status ds_gated_activation_cpu(const ds_gated_activation_params *params, ds_parallel_for_fn parallel_for);
ds_status ds_bias_add_cpu(const ds_bias_add_params *params, ds_parallel_for_fn parallel_for);

#ifdef __cplusplus
}
#endif
#endif
