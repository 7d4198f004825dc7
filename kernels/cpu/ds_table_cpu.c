#include "ds_cpu_convert.h"
#include "ds_cpu_dispatch.h"

static void load(ds_dtype dtype, const void *source, int64_t count, float *result) {
  ds_load_run(dtype, source, count, result);
}

static void store(ds_dtype dtype, const float *values, int64_t count, void *result) {
  ds_store_run(dtype, values, count, result);
}

#define DS_CPU_QUOTE(name) #name
#define DS_CPU_STRING(name) DS_CPU_QUOTE(name)
#define DS_CPU_KERNEL_VALUE(name) .name = DS_CPU_NAME(ds_##name##_cpu),

const ds_cpu_kernels DS_CPU_NAME(ds_cpu_kernels) = {
    .capability = DS_CPU_STRING(DS_CPU_CAPABILITY),
    DS_KERNELS(DS_CPU_KERNEL_VALUE).load = load,
    .store = store,
};
