// Conversions between float32 and the two 16-bit types, rounding to nearest, ties to even.
//
// The portable forms are branch-free, so that loops over them become vector code on any processor; where the
// compiler may use F16C or AVX-512, float16 goes through the instruction. All give the same bits, NaN
// payloads included, and none reads or makes a subnormal float32, so a host that flushes those changes
// nothing.
#ifndef DS_CPU_CONVERT_H
#define DS_CPU_CONVERT_H

#include "ds_dtype.h"
#include <stdint.h>
#include <string.h>
#if defined(__F16C__)
#  include <immintrin.h>
#endif

// For functions over whole runs: inlined copies would only fill the instruction cache.
#define DS_NOT_INLINE static __attribute__((noinline, unused))

// Tensors can start at any byte and hold any type.
typedef uint16_t ds_unaligned_uint16 __attribute__((may_alias, aligned(1)));

static inline uint32_t ds_bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float ds_float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float ds_float_of_bfloat16(uint16_t value) {
  return ds_float_of_bits((uint32_t)value << 16);
}

static inline uint16_t ds_bfloat16_of_float(float value) {
  const uint32_t bits = ds_bits_of_float(value);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const uint32_t quiet_nan = bits | 0x400000u; // rounding could carry a NaN's payload into infinity
  return (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded) >> 16);
}

static inline float ds_float_of_float16(uint16_t value) {
  const uint32_t magnitude = (uint32_t)(value & 0x7fff) << 13;
  const uint32_t sign = (uint32_t)(value & 0x8000) << 16;
  const uint32_t normal = magnitude + ((127u - 15u) << 23);
  // A subnormal is read as the fraction of a number at 2^-14, from which 2^-14 is taken away.
  const float two_to_minus_14 = 6.103515625e-05f;
  const uint32_t subnormal =
      ds_bits_of_float(ds_float_of_bits(magnitude + ((127u - 14u) << 23)) - two_to_minus_14);
  const uint32_t quiet = magnitude > 0x0f800000u ? 0x400000u : 0u;
  const uint32_t infinity_or_nan = magnitude | 0x7f800000u | quiet;
  const uint32_t finite = magnitude < 0x00800000u ? subnormal : normal;
  return ds_float_of_bits(sign | (magnitude >= 0x0f800000u ? infinity_or_nan : finite));
}

static inline uint16_t ds_float16_of_float(float value) {
  const uint32_t bits = ds_bits_of_float(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Adding half a unit less one, and one more where the kept part is odd, rounds to nearest even; a carry
  // into the exponent is right, up to infinity.
  const uint32_t normal = (magnitude - ((127u - 15u) << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the addition to 0.5 leaves the fraction in units of 2^-24, rounded by the processor.
  const uint32_t subnormal = ds_bits_of_float(ds_float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t large = magnitude > 0x7f800000u ? nan : 0x7c00u;
  return (uint16_t)((bits >> 16 & 0x8000u) | (magnitude >= 0x47800000u ? large : finite));
}

DS_NOT_INLINE void ds_load_bfloat16_run(const ds_unaligned_uint16 *source, int64_t count, float *result) {
  for (int64_t i = 0; i < count; i++) result[i] = ds_float_of_bfloat16(source[i]);
}

DS_NOT_INLINE void ds_store_bfloat16_run(const float *values, int64_t count, ds_unaligned_uint16 *result) {
  for (int64_t i = 0; i < count; i++) result[i] = ds_bfloat16_of_float(values[i]);
}

DS_NOT_INLINE void ds_load_float16_run(const ds_unaligned_uint16 *source, int64_t count, float *result) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(result + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)(source + i))));
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(result + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)(source + i))));
#endif
  for (; i < count; i++) result[i] = ds_float_of_float16(source[i]);
}

DS_NOT_INLINE void ds_store_float16_run(const float *values, int64_t count, ds_unaligned_uint16 *result) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16)
    _mm256_storeu_si256((__m256i_u *)(result + i),
                        _mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128((__m128i_u *)(result + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < count; i++) result[i] = ds_float16_of_float(values[i]);
}

// `count` elements of `dtype` that lie one behind the other, as float32. The ranges don't overlap.
static inline void ds_load_run(ds_dtype dtype, const void *source, int64_t count, float *result) {
  switch (dtype) {
  case DS_FLOAT16:
    ds_load_float16_run((const ds_unaligned_uint16 *)source, count, result);
    break;
  case DS_BFLOAT16:
    ds_load_bfloat16_run((const ds_unaligned_uint16 *)source, count, result);
    break;
  default:
    memcpy(result, source, (size_t)count * sizeof *result);
  }
}

// The reverse: `count` float32 values rounded to `dtype`.
static inline void ds_store_run(ds_dtype dtype, const float *values, int64_t count, void *result) {
  switch (dtype) {
  case DS_FLOAT16:
    ds_store_float16_run(values, count, (ds_unaligned_uint16 *)result);
    break;
  case DS_BFLOAT16:
    ds_store_bfloat16_run(values, count, (ds_unaligned_uint16 *)result);
    break;
  default:
    memcpy(result, values, (size_t)count * sizeof *values);
  }
}

#endif
