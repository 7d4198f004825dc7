// A register of float32 numbers, and how it is read from memory of each dtype and rounded to it: to nearest,
// ties to even.
//
// Kernels are written over these: a tensor's elements are converted in registers, on the way from and to
// memory. Where the compiler may use F16C, AVX-512 or NEON, float16 goes through their instructions;
// otherwise all is vector arithmetic, which any processor has. All levels give the same bits, NaN payloads
// included, and no conversion reads or makes a subnormal float32, so a host that flushes those changes
// nothing.
#ifndef DS_CPU_VECTOR_H
#define DS_CPU_VECTOR_H

#include "ds_dtype.h"
#include <stdint.h>
#include <string.h>
#if defined(__F16C__) || defined(__AVX512F__)
#  include <immintrin.h>
#endif

// For functions over whole runs: inlined copies would only fill the instruction cache.
#define DS_NOT_INLINE static __attribute__((noinline, unused))
// For functions whose dtype and count are constants once they are inlined.
#define DS_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)
#  define DS_LANES 16
#elif defined(__AVX2__)
#  define DS_LANES 8
#else
#  define DS_LANES 4
#endif
typedef float ds_vector __attribute__((vector_size(DS_LANES * sizeof(float))));
typedef uint32_t ds_bits __attribute__((vector_size(DS_LANES * sizeof(uint32_t))));
typedef int32_t ds_mask __attribute__((vector_size(DS_LANES * sizeof(int32_t)))); // lanes of 0 or -1
typedef uint16_t ds_halves __attribute__((vector_size(DS_LANES * sizeof(uint16_t))));
#if defined(__aarch64__)
typedef __fp16 ds_float16s __attribute__((vector_size(DS_LANES * sizeof(uint16_t))));
#endif

DS_INLINE ds_vector ds_vector_of(float value) {
  const ds_vector zero = {0};
  return value - zero; // which is exact, unlike a sum for the negative zero
}

// a where `mask` is set, b elsewhere.
DS_INLINE ds_bits ds_select(ds_mask mask, ds_bits a, ds_bits b) {
  return ((ds_bits)mask & a) | (~(ds_bits)mask & b);
}

// a where a < b, else b: also where either is NaN.
DS_INLINE ds_vector ds_vector_min(ds_vector a, ds_vector b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return (ds_vector)ds_select(a < b, (ds_bits)a, (ds_bits)b);
#endif
}

// The first `count` lanes as they are, zeros in the others.
DS_INLINE ds_vector ds_vector_first(ds_vector values, int count) {
  if (count == DS_LANES) return values;
#if defined(__AVX512F__)
  return _mm512_maskz_mov_ps((__mmask16)((1u << count) - 1), values);
#else
  static const int32_t set[2 * DS_LANES] = {
#  if DS_LANES == 8
    -1,
    -1,
    -1,
    -1,
#  endif
    -1,
    -1,
    -1,
    -1
  };
  ds_mask mask;
  memcpy(&mask, set + DS_LANES - count, sizeof mask);
  return (ds_vector)((ds_bits)values & (ds_bits)mask);
#endif
}

DS_INLINE float ds_vector_sum(ds_vector lanes) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(lanes);
#else
#  if defined(__AVX2__)
  const __m128 four = _mm256_castps256_ps128(lanes) + _mm256_extractf128_ps(lanes, 1);
#  else
  const ds_vector four = lanes;
#  endif
  return (four[0] + four[2]) + (four[1] + four[3]);
#endif
}

DS_INLINE ds_bits ds_bits_of_halves(ds_halves halves) {
#if defined(__AVX512F__)
  return (ds_bits)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(__AVX2__)
  return (ds_bits)_mm256_cvtepu16_epi32((__m128i)halves);
#else
  return __builtin_convertvector(halves, ds_bits);
#endif
}

DS_INLINE ds_vector ds_vector_of_float16(ds_halves halves) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps((__m256i)halves);
#elif defined(__F16C__) && DS_LANES == 8
  return _mm256_cvtph_ps((__m128i)halves);
#elif defined(__aarch64__)
  return __builtin_convertvector((ds_float16s)halves, ds_vector);
#else
  const ds_bits value = ds_bits_of_halves(halves);
  const ds_bits magnitude = (value & 0x7fff) << 13, sign = (value & 0x8000) << 16;
  const ds_bits normal = magnitude + ((127u - 15u) << 23);
  // A subnormal is read as the fraction of a number at 2^-14, from which 2^-14 is taken away.
  const float two_to_minus_14 = 6.103515625e-05f;
  const ds_bits subnormal = (ds_bits)((ds_vector)(magnitude + ((127u - 14u) << 23)) - two_to_minus_14);
  const ds_bits quiet = (ds_bits)((ds_mask)magnitude > 0x0f800000) & 0x400000;
  const ds_bits infinity_or_nan = magnitude | 0x7f800000 | quiet;
  const ds_bits finite = ds_select((ds_mask)magnitude < 0x00800000, subnormal, normal);
  return (ds_vector)(sign | ds_select((ds_mask)magnitude >= 0x0f800000, infinity_or_nan, finite));
#endif
}

// The lower halves of the lanes, whose upper ones are zero.
DS_INLINE ds_halves ds_halves_of_bits(ds_bits bits) {
#if defined(__AVX512F__)
  return (ds_halves)_mm512_cvtepi32_epi16((__m512i)bits);
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)bits, (__m256i)bits);
  return (ds_halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(bits, ds_halves);
#endif
}

DS_INLINE ds_halves ds_float16_of_vector(ds_vector values) {
#if defined(__AVX512F__)
  return (ds_halves)_mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__) && DS_LANES == 8
  return (ds_halves)_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__)
  return (ds_halves) __builtin_convertvector(values, ds_float16s);
#else
  const ds_bits bits = (ds_bits)values, magnitude = bits & 0x7fffffff;
  // Adding half a unit less one, and one more where the kept part is odd, rounds to nearest even; a carry
  // into the exponent is right, up to infinity.
  const ds_bits normal = (magnitude - ((127u - 15u) << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the addition to 0.5 leaves the fraction in units of 2^-24, rounded by the processor.
  const ds_bits subnormal = (ds_bits)((ds_vector)magnitude + 0.5f) - 0x3f000000u;
  const ds_bits nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  const ds_bits finite = ds_select((ds_mask)magnitude < 0x38800000, subnormal, normal);
  const ds_mask is_nan = (ds_mask)magnitude > 0x7f800000;
  const ds_bits large = ((ds_bits)is_nan & nan) | (~(ds_bits)is_nan & 0x7c00u);
  return ds_halves_of_bits((bits >> 16 & 0x8000u) |
                           ds_select((ds_mask)magnitude >= 0x47800000, large, finite));
#endif
}

DS_INLINE ds_halves ds_bfloat16_of_vector(ds_vector values) {
  const ds_bits bits = (ds_bits)values;
#if defined(__AVX512F__)
  const __mmask16 odd = _mm512_test_epi32_mask((__m512i)bits, _mm512_set1_epi32(0x10000));
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  __m512i rounded = _mm512_add_epi32((__m512i)bits, _mm512_set1_epi32(0x7fff));
  rounded = _mm512_mask_add_epi32(rounded, odd, rounded, _mm512_set1_epi32(1));
  // Rounding could carry a NaN's payload into infinity.
  rounded = _mm512_mask_or_epi32(rounded, nan, (__m512i)bits, _mm512_set1_epi32(0x400000));
  return ds_halves_of_bits((ds_bits)rounded >> 16);
#else
  const ds_bits rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const ds_bits quiet_nan = bits | 0x400000u; // rounding could carry a NaN's payload into infinity
  return ds_halves_of_bits(ds_select((ds_mask)(bits & 0x7fffffffu) > 0x7f800000, quiet_nan, rounded) >> 16);
#endif
}

DS_INLINE int ds_element_bytes(ds_dtype dtype) {
  return dtype == DS_FLOAT32 ? 4 : 2;
}

DS_INLINE ds_halves ds_halves_load(const char *source, int count) {
  ds_halves halves = {0};
#if defined(__AVX512F__)
  if (count < DS_LANES) return (ds_halves)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), source);
#endif
  memcpy(&halves, source, (size_t)count * sizeof(uint16_t));
  return halves;
}

DS_INLINE void ds_halves_store(ds_halves halves, char *target, int count) {
#if defined(__AVX512F__)
  if (count < DS_LANES) {
    _mm256_mask_storeu_epi16(target, (__mmask16)((1u << count) - 1), (__m256i)halves);
    return;
  }
#endif
  memcpy(target, &halves, (size_t)count * sizeof(uint16_t));
}

// `count` elements of `dtype` that begin at any address, 1 … DS_LANES; zeros in the other lanes.
DS_INLINE ds_vector ds_vector_load(ds_dtype dtype, const char *source, int count) {
  if (dtype == DS_FLOAT16) return ds_vector_of_float16(ds_halves_load(source, count));
  if (dtype == DS_BFLOAT16) return (ds_vector)(ds_bits_of_halves(ds_halves_load(source, count)) << 16);
  ds_vector values = {0};
#if defined(__AVX512F__)
  if (count < DS_LANES) return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), source);
#endif
  memcpy(&values, source, (size_t)count * sizeof(float));
  return values;
}

// The reverse, rounded.
DS_INLINE void ds_vector_store(ds_dtype dtype, ds_vector values, char *target, int count) {
  if (dtype == DS_FLOAT16) {
    ds_halves_store(ds_float16_of_vector(values), target, count);
    return;
  }
  if (dtype == DS_BFLOAT16) {
    ds_halves_store(ds_bfloat16_of_vector(values), target, count);
    return;
  }
#if defined(__AVX512F__)
  if (count < DS_LANES) {
    _mm512_mask_storeu_ps(target, (__mmask16)((1u << count) - 1), values);
    return;
  }
#endif
  memcpy(target, &values, (size_t)count * sizeof(float));
}

// `vector`'s elements from i on; `neutral` where there is no vector.
DS_INLINE ds_vector ds_vector_load_or(ds_dtype dtype, const char *vector, int64_t i, int count,
                                      float neutral) {
  return vector == NULL ? ds_vector_of(neutral)
                        : ds_vector_load(dtype, vector + i * ds_element_bytes(dtype), count);
}

// The neutral element of a sum: it leaves every number as it is, the negative zero included.
static const float ds_no_bias = -0.0f;

// Asks for memory that will be read soon. Where nothing is, this does no harm.
DS_INLINE void ds_prefetch(const char *start, int64_t offset) {
  __builtin_prefetch((const void *)((uintptr_t)start + (uintptr_t)offset));
}

// The same for a run that is being read at `offset`: the processor itself looks no further than a page's end.
DS_INLINE void ds_prefetch_ahead(const char *start, int64_t offset) {
  ds_prefetch(start, offset + 2048);
}

// Elements that are left after as many registers as fit; the compiler knows that they fill none.
DS_INLINE int ds_rest(int64_t count) {
  return (int)((uint64_t)count % DS_LANES);
}

// Calls function(dtype, …) with a dtype that is a constant to the compiler.
#define DS_FOR_DTYPE(dtype, function, ...)                                                                   \
  do {                                                                                                       \
    if ((dtype) == DS_FLOAT16)                                                                               \
      function(DS_FLOAT16, __VA_ARGS__);                                                                     \
    else if ((dtype) == DS_BFLOAT16)                                                                         \
      function(DS_BFLOAT16, __VA_ARGS__);                                                                    \
    else                                                                                                     \
      function(DS_FLOAT32, __VA_ARGS__);                                                                     \
  } while (0)

#endif
