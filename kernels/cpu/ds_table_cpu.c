#include "ds_cpu_dispatch.h"
#include "ds_cpu_vector.h"

DS_INLINE void load_as(ds_dtype dtype, const char *source, int64_t count, float *result) {
  for (int64_t i = 0; i < count; i += DS_LANES) {
    const int now = count - i < DS_LANES ? (int)(count - i) : DS_LANES;
    ds_vector_store(DS_FLOAT32, ds_vector_load(dtype, source + i * ds_element_bytes(dtype), now),
                    (char *)(result + i), now);
  }
}

DS_INLINE void store_as(ds_dtype dtype, const float *values, int64_t count, char *result) {
  for (int64_t i = 0; i < count; i += DS_LANES) {
    const int now = count - i < DS_LANES ? (int)(count - i) : DS_LANES;
    ds_vector_store(dtype, ds_vector_load(DS_FLOAT32, (const char *)(values + i), now),
                    result + i * ds_element_bytes(dtype), now);
  }
}

static void load(ds_dtype dtype, const void *source, int64_t count, float *result) {
  DS_FOR_DTYPE(dtype, load_as, (const char *)source, count, result);
}

static void store(ds_dtype dtype, const float *values, int64_t count, void *result) {
  DS_FOR_DTYPE(dtype, store_as, values, count, (char *)result);
}

#define DS_CPU_QUOTE(name) #name
#define DS_CPU_STRING(name) DS_CPU_QUOTE(name)
#define DS_CPU_KERNEL_VALUE(name) .name = DS_CPU_NAME(ds_##name##_cpu),

const ds_cpu_kernels DS_CPU_NAME(ds_cpu_kernels) = {
    .capability = DS_CPU_STRING(DS_CPU_CAPABILITY),
    DS_KERNELS(DS_CPU_KERNEL_VALUE).load = load,
    .store = store,
};
