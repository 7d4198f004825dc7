// Exact GELU and SiLU of a register of float32 numbers, without branches or library calls.
//
// Far out on the negative side the result is -0 (from -13.3 and -88.4 on). NaN gives NaN, +infinity itself,
// and -infinity NaN (-infinity · 0, as in torch.nn.functional.gelu and silu).
#ifndef DS_CPU_ACTIVATIONS_H
#define DS_CPU_ACTIVATIONS_H

#include "ds_cpu_vector.h"

// Added to arguments, it changes no result, and keeps subnormal numbers, with which x86 multiplies a hundred
// times slower, out of the polynomials.
#define DS_BARELY_NORMAL 0x1p-50f

// exp(argument + correction) for a sum in [-88.3, 88.9] and |correction| < 0.045, within 2 units in the last
// place; 0 below -88 and infinity above 88.4.
//
// exp(y) = 2^n · exp(r) with n = round(argument / ln 2); the polynomial for exp(r) on [-0.39, 0.35] is fitted
// by scripts/tools/fit_cpu_activations.py (relative error 3e-9).
DS_INLINE ds_vector ds_exp_of_sum(ds_vector argument, ds_vector correction) {
  // Adding 1.5 · 2^23 rounds to an integer and leaves it in the low bits.
  const float round_to_integer = 12582912.0f;
  const ds_vector shifted = argument * 1.44269504f + round_to_integer;
  const ds_vector n = shifted - round_to_integer;
  // ln 2 in two parts, the first short enough for n times it to be exact.
  const ds_vector r = ((argument - n * 0.693359375f) - n * -2.12194440e-4f) + correction;
  ds_vector p = 0.00135698302f * r + 0.00837597535f;
  p = p * r + 0.0416725198f;
  p = p * r + 0.166664113f;
  p = p * r + 0.499999779f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * (ds_vector)(((ds_bits)shifted + 127u) << 23);
}

// x · Φ(x), Φ the normal distribution function: x · ½(1 + erf(x / √2)).
//
// With a = |x|, Φ(-a) = exp(-a²/2) · P(a) / Q(a), whose coefficients are all positive and fitted by
// scripts/tools/fit_cpu_activations.py (relative error 6e-9); Φ(a) = 1 - Φ(-a). So the small results on the
// negative side keep their leading digits, which ½(1 + erf) cancels.
DS_INLINE ds_vector ds_gelu(ds_vector x) {
  const ds_vector magnitude = (ds_vector)((ds_bits)x & 0x7fffffffu);
  // Beyond 13.27 the exponential is zero. A NaN takes the bound here and returns with the last product.
  const ds_vector a = ds_vector_min(magnitude, ds_vector_of(13.28f)) + DS_BARELY_NORMAL;
  // The upper 12 bits have an exact square; what it lacks of a² goes into the exponential as a correction.
  const ds_vector upper = (ds_vector)((ds_bits)a & 0xfffff000u);
  const ds_vector exponential = ds_exp_of_sum(-0.5f * upper * upper, -0.5f * (a - upper) * (a + upper));
  ds_vector p = 0.00398918063f * a + 0.0397880437f;
  p = p * a + 0.180743757f;
  p = p * a + 0.434955667f;
  p = p * a + 0.5f;
  ds_vector q = 0.00999924606f * a + 0.0997413799f;
  q = q * a + 0.462888316f;
  q = q * a + 1.19219293f;
  q = q * a + 1.66779614f;
  q = q * a + 1.0f;
  const ds_vector tail = exponential * (p / q);
  const ds_mask is_negative = (ds_mask)x >> 31;
  return x * (ds_vector)ds_select(is_negative, (ds_bits)tail, (ds_bits)(1.0f - tail));
}

// x / (1 + exp(-x)).
DS_INLINE ds_vector ds_silu(ds_vector x) {
  const ds_vector not_above = ds_vector_min(-x, ds_vector_of(88.9f));
  const ds_vector bounded = -ds_vector_min(-not_above, ds_vector_of(88.3f));
  return x / (1.0f + ds_exp_of_sum(bounded + DS_BARELY_NORMAL, ds_vector_of(0.0f)));
}

#endif
