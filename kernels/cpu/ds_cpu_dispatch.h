// The CPU kernels' sources are compiled once for each level of the instruction set that is worth it; one
// table for each level names the results. The level is chosen when the program runs.
#ifndef DS_CPU_DISPATCH_H
#define DS_CPU_DISPATCH_H

#include "ds_kernels_cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

// A host may hold the library to a lower level by this environment variable: default, avx2 or avx512. A level
// that the processor lacks is lowered to the best one that it has; any other value fails every kernel's call.
#define DS_CPU_CAPABILITY_VARIABLE "DS_DIFFUSERS_CPU_CAPABILITY"

typedef struct ds_cpu_kernels {
  const char *capability;
#define DS_CPU_KERNEL_FIELD(name)                                                                            \
  ds_status (*name)(const ds_##name##_params *params, ds_parallel_for_fn parallel_for);
  DS_KERNELS(DS_CPU_KERNEL_FIELD)
#undef DS_CPU_KERNEL_FIELD
  // The conversions that the kernels use: `count` contiguous elements to float32 and, rounded, back.
  void (*load)(ds_dtype dtype, const void *source, int64_t count, float *result);
  void (*store)(ds_dtype dtype, const float *values, int64_t count, void *result);
} ds_cpu_kernels;

// The best table that this processor can run and `capability` (NULL or empty: any) allows. DS_E_VALUE with a
// message for an unknown capability.
ds_status ds_cpu_kernels_for(const char *capability, const ds_cpu_kernels **kernels);

// The same for the environment variable, read at the first call. From any thread.
ds_status ds_cpu_kernels_chosen(const ds_cpu_kernels **kernels);

// Whether this processor has instructions for matrix products of a 16-bit type (float32: it does). Of others
// than x86 nothing is known, and it is taken to have them.
int ds_cpu_multiplies(ds_dtype dtype);

// Inside a source that is compiled for several levels: the level's own name of a function.
#ifdef DS_CPU_CAPABILITY
#  define DS_CPU_JOIN(name, capability) name##_##capability
#  define DS_CPU_EXPAND(name, capability) DS_CPU_JOIN(name, capability)
#  define DS_CPU_NAME(name) DS_CPU_EXPAND(name, DS_CPU_CAPABILITY)
#  define DS_CPU_KERNEL_PROTOTYPE(name)                                                                      \
    ds_status DS_CPU_NAME(ds_##name##_cpu)(const ds_##name##_params *params, ds_parallel_for_fn parallel_for);
DS_KERNELS(DS_CPU_KERNEL_PROTOTYPE)
#  undef DS_CPU_KERNEL_PROTOTYPE
extern const ds_cpu_kernels DS_CPU_NAME(ds_cpu_kernels);
#endif

#ifdef __cplusplus
}
#endif
#endif
