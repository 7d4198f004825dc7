#include "ds_cpu_convert.h"
#include "ds_cpu_dispatch.h"
#include <math.h>

// Elements that pass through scratch on their way to a 16-bit type: few enough to stay in the first cache.
enum { RUN = 1024 };

DS_NOT_INLINE void scale_run(const int8_t *weight, float scale, int64_t count, float *result) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) result[i] = (float)weight[i] * scale;
}

// For any scale; the others below are faster for those that are finite.
static void convert_run(ds_dtype dtype, const int8_t *weight, float scale, int64_t count, char *output) {
  float scratch[RUN];
  for (int64_t first = 0; first < count; first += RUN) {
    const int64_t run = count - first < RUN ? count - first : RUN;
    scale_run(weight + first, scale, run, scratch);
    ds_store_run(dtype, scratch, run, output + first * 2);
  }
}

// Without a NaN to look after, rounding to nearest even is an addition.
DS_NOT_INLINE void scale_bfloat16_run(const int8_t *weight, float scale, int64_t count,
                                      ds_unaligned_uint16 *result) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) {
    const uint32_t bits = ds_bits_of_float((float)weight[i] * scale);
    result[i] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
}

// As many as the processor converts in one instruction each, and returns how many it did.
DS_NOT_INLINE int64_t scale_float16_vectors(const int8_t *weight, float scale, int64_t count,
                                            ds_unaligned_uint16 *result) {
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m512 scales = _mm512_set1_ps(scale);
  for (; i + 16 <= count; i += 16) {
    const __m128i bytes = _mm_loadu_si128((const __m128i_u *)(weight + i));
    const __m512 values = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), scales);
    _mm256_storeu_si256((__m256i_u *)(result + i), _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__) && defined(__AVX2__)
  const __m256 scales = _mm256_set1_ps(scale);
  for (; i + 8 <= count; i += 8) {
    const __m128i bytes = _mm_loadl_epi64((const __m128i_u *)(weight + i));
    const __m256 values = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), scales);
    _mm_storeu_si128((__m128i_u *)(result + i), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  (void)weight, (void)scale, (void)count, (void)result;
#endif
  return i;
}

static void dequantize_group(ds_dtype dtype, const int8_t *weight, float scale, int64_t count, char *output) {
  int64_t done = 0;
  if (dtype == DS_FLOAT32) {
    scale_run(weight, scale, count, (float *)(void *)output);
    return;
  }
  if (dtype == DS_BFLOAT16 && isfinite(scale)) {
    scale_bfloat16_run(weight, scale, count, (ds_unaligned_uint16 *)(void *)output);
    return;
  }
  if (dtype == DS_FLOAT16)
    done = scale_float16_vectors(weight, scale, count, (ds_unaligned_uint16 *)(void *)output);
  convert_run(dtype, weight + done, scale, count - done, output + done * 2);
}

static void dequantize_rows(int64_t begin, int64_t end, void *argument) {
  const ds_dequantize_params *params = (const ds_dequantize_params *)argument;
  const int64_t group = params->cols / params->groups, bytes = params->dtype == DS_FLOAT32 ? 4 : 2;
  for (int64_t row = begin; row < end; row++)
    for (int64_t i = 0; i < params->groups; i++) {
      float scale; // of a tensor that may start at any byte
      memcpy(&scale, (const char *)params->scale + (row * params->groups + i) * (int64_t)sizeof scale,
             sizeof scale);
      dequantize_group(params->dtype, params->weight + row * params->weight_row_stride + i * group, scale,
                       group, (char *)params->output + (row * params->cols + i * group) * bytes);
    }
}

ds_status DS_CPU_NAME(ds_dequantize_cpu)(const ds_dequantize_params *params,
                                         ds_parallel_for_fn parallel_for) {
  if (params->rows <= 0 || params->cols <= 0) return DS_OK;
  const int64_t worthwhile = 32768; // elements for another thread
  const int64_t grain = params->cols >= worthwhile ? 1 : (worthwhile - 1) / params->cols + 1;
  return ds_parallel_for(parallel_for, 0, params->rows, grain, dequantize_rows, (void *)(uintptr_t)params);
}
