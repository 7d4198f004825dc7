// Entry points of the CPU kernels. Parameters were checked by the caller; rows are spread over the threads of
// `parallel_for` (NULL: the calling thread), small work stays on the calling thread. Each returns DS_OK, the
// status of a failed parallel_for, DS_E_MEMORY where scratch for a long row could not be had (the output is
// then unspecified), or DS_E_VALUE for an environment that names an unknown instruction set
// (ds_cpu_dispatch.h).
#ifndef DS_KERNELS_CPU_H
#define DS_KERNELS_CPU_H

#include "../ds_kernels.h"
#include "../ds_parallel.h"

#ifdef __cplusplus
extern "C" {
#endif

// ds_layer_norm_cpu and so on, one for each of DS_KERNELS.
#define DS_DECLARE_CPU_KERNEL(name)                                                                          \
  ds_status ds_##name##_cpu(const ds_##name##_params *params, ds_parallel_for_fn parallel_for);
DS_KERNELS(DS_DECLARE_CPU_KERNEL)
#undef DS_DECLARE_CPU_KERNEL

#ifdef __cplusplus
}
#endif
#endif
