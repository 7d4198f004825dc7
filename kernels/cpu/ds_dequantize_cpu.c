#include "ds_cpu_dispatch.h"
#include "ds_cpu_vector.h"

DS_INLINE ds_vector vector_of_int8(const int8_t *weight, int count) {
  int8_t bytes[16] = {0};
  memcpy(bytes, weight, (size_t)count);
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i_u *)bytes)));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i_u *)bytes)));
#else
  ds_vector values;
  for (int i = 0; i < DS_LANES; i++) values[i] = (float)bytes[i];
  return values;
#endif
}

DS_INLINE void scale_vector(ds_dtype dtype, const int8_t *weight, float scale, char *output, int count) {
  ds_vector_store(dtype, vector_of_int8(weight, count) * scale, output, count);
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
