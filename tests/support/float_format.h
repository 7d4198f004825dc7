// The element types in exact double arithmetic, written without a look at the library's conversions. int8,
// which kernels do not compute with, is there for quantised weights.
#ifndef DS_TESTS_FLOAT_FORMAT_H
#define DS_TESTS_FLOAT_FORMAT_H

#include "ds_dtype.h"
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace ds_tests {

struct float_format {
  int bytes;
  int fraction_bits;
  int lowest_exponent; // of normal numbers
  int highest_exponent;
};

inline float_format format_of(ds_dtype dtype) {
  switch (dtype) {
  case DS_FLOAT16:
    return {2, 10, -14, 15};
  case DS_BFLOAT16:
    return {2, 7, -126, 127};
  case DS_INT8:
    return {1, 0, 0, 6};
  default:
    return {4, 23, -126, 127};
  }
}

// The distance between neighbouring numbers of `dtype` around `value`.
inline double unit_at(ds_dtype dtype, double value) {
  const float_format format = format_of(dtype);
  const int exponent =
      value == 0 ? format.lowest_exponent : std::max(std::ilogb(value), format.lowest_exponent);
  return std::ldexp(1.0, exponent - format.fraction_bits);
}

// The number of `dtype` nearest to `value`, ties to even; an infinity beyond the largest.
inline double round_to(ds_dtype dtype, double value) {
  if (!std::isfinite(value)) return value;
  const double unit = unit_at(dtype, value);
  const double rounded = std::nearbyint(value / unit) * unit; // the division is by a power of two: exact
  const float_format format = format_of(dtype);
  return std::abs(rounded) >= std::ldexp(1.0, format.highest_exponent + 1)
             ? std::copysign(std::numeric_limits<double>::infinity(), value)
             : std::copysign(rounded, value);
}

// What the bits of an element mean.
inline double decode(ds_dtype dtype, uint32_t bits) {
  const float_format format = format_of(dtype);
  const int exponent_bits = format.bytes * 8 - 1 - format.fraction_bits;
  const uint32_t fraction = bits & ((1u << format.fraction_bits) - 1);
  const int exponent = static_cast<int>(bits >> format.fraction_bits & ((1u << exponent_bits) - 1));
  const double sign = bits >> (format.bytes * 8 - 1) & 1u ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1)
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  const double unit =
      std::ldexp(1.0, std::max(exponent, 1) + format.lowest_exponent - 1 - format.fraction_bits);
  return sign * unit * (fraction + (exponent > 0 ? std::ldexp(1.0, format.fraction_bits) : 0.0));
}

// The bits of `value`, rounded. NaN becomes one of the quiet NaNs.
inline uint32_t encode(ds_dtype dtype, double value) {
  const float_format format = format_of(dtype);
  const uint32_t sign = std::signbit(value) ? 1u << (format.bytes * 8 - 1) : 0u;
  const uint32_t infinity = static_cast<uint32_t>(format.highest_exponent * 2 + 1) << format.fraction_bits;
  if (std::isnan(value)) return sign | infinity | 1u << (format.fraction_bits - 1);
  const double magnitude = std::abs(round_to(dtype, value));
  if (std::isinf(magnitude)) return sign | infinity;
  const double unit = unit_at(dtype, magnitude);
  const auto units = static_cast<uint32_t>(magnitude / unit);
  const uint32_t hidden = 1u << format.fraction_bits;
  if (units < hidden) return sign | units;
  const auto exponent = static_cast<uint32_t>(std::ilogb(magnitude) - format.lowest_exponent + 1);
  return sign | exponent << format.fraction_bits | (units - hidden);
}

inline double read_element(ds_dtype dtype, const void *element) {
  if (dtype == DS_INT8) return *static_cast<const int8_t *>(element);
  uint32_t bits = 0;
  std::memcpy(&bits, element, static_cast<size_t>(format_of(dtype).bytes)); // little-endian, as the library
  return decode(dtype, bits);
}

inline void write_element(ds_dtype dtype, void *element, double value) {
  if (dtype == DS_INT8) {
    *static_cast<int8_t *>(element) = static_cast<int8_t>(std::clamp(std::nearbyint(value), -128.0, 127.0));
    return;
  }
  const uint32_t bits = encode(dtype, value);
  std::memcpy(element, &bits, static_cast<size_t>(format_of(dtype).bytes));
}

} // namespace ds_tests

#endif
