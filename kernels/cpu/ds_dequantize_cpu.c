#include "ds_cpu_dispatch.h"
#include "ds_cpu_vector.h"

typedef int8_t bytes __attribute__((vector_size(DS_LANES)));

DS_INLINE void scale_vector(ds_dtype dtype, const int8_t *weight, float scale, char *output, int count) {
  bytes quantized = {0};
  memcpy(&quantized, weight, (size_t)count);
  const ds_vector values =
      __builtin_convertvector(__builtin_convertvector(quantized, ds_mask), ds_vector) * scale;
  ds_vector_store(dtype, values, output, count);
}

DS_INLINE void scale_run_as(ds_dtype dtype, const int8_t *weight, float scale, char *output, int64_t count) {
  int64_t i = 0;
  for (; i + DS_LANES <= count; i += DS_LANES)
    scale_vector(dtype, weight + i, scale, output + i * ds_element_bytes(dtype), DS_LANES);
  if (i < count) scale_vector(dtype, weight + i, scale, output + i * ds_element_bytes(dtype), ds_rest(count));
}

DS_NOT_INLINE void scale_run(ds_dtype dtype, const int8_t *weight, float scale, char *output, int64_t count) {
  DS_FOR_DTYPE(dtype, scale_run_as, weight, scale, output, count);
}

static void dequantize_rows(int64_t begin, int64_t end, void *argument) {
  const ds_dequantize_params *params = (const ds_dequantize_params *)argument;
  const int64_t group = params->cols / params->groups;
  for (int64_t row = begin; row < end; row++)
    for (int64_t i = 0; i < params->groups; i++) {
      float scale; // of a tensor that may start at any byte
      memcpy(&scale, (const char *)params->scale + (row * params->groups + i) * (int64_t)sizeof scale,
             sizeof scale);
      scale_run(params->dtype, params->weight + row * params->weight_row_stride + i * group, scale,
                (char *)params->output + (row * params->cols + i * group) * ds_element_bytes(params->dtype),
                group);
    }
}

ds_status DS_CPU_NAME(ds_dequantize_cpu)(const ds_dequantize_params *params,
                                         ds_parallel_for_fn parallel_for) {
  if (params->rows <= 0 || params->cols <= 0) return DS_OK;
  const int64_t worthwhile = 32768; // elements for another thread
  const int64_t grain = params->cols >= worthwhile ? 1 : (worthwhile - 1) / params->cols + 1;
  return ds_parallel_for(parallel_for, 0, params->rows, grain, dequantize_rows, (void *)(uintptr_t)params);
}
