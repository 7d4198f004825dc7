// Exact GELU and SiLU for results that are rounded to 16 bits, as an epilogue of products that leaves no time
// for erff and expf.
//
// Infinities and NaN come out as from torch.nn.functional.gelu and silu.
#ifndef DS_GATED_ACTIVATIONS_CUH
#define DS_GATED_ACTIVATIONS_CUH

#include "ds_fast_math.cuh"

// x · Φ(x), Φ the normal distribution function: x · ½(1 + erf(x / √2)), within 5e-6, and exactly 0 and x
// beyond ±4.85.
//
// Φ(x) = ½ + v · P(v² - ⅛) with v = x / (2 · 4.85) cut off at ±½: only multiplications and additions, as the
// special-function unit's exponential and reciprocal take longer than the ten steps of P, which is fitted by
// scripts/tools/fit_cuda_activations.py. Between -1 and 1 times ⅛ its terms do not cancel.
__device__ __forceinline__ float ds_gelu_fast(float x) {
  constexpr float last = 4.85f;
  const float v = __saturatef(fmaf(x, 1.f / (2.f * last), 0.5f)) - 0.5f;
  const float w = fmaf(v, v, -0.125f);
  float polynomial = 16911164.f;
  polynomial = fmaf(polynomial, w, -6060309.f);
  polynomial = fmaf(polynomial, w, 941053.188f);
  polynomial = fmaf(polynomial, w, -156645.375f);
  polynomial = fmaf(polynomial, w, 36384.6523f);
  polynomial = fmaf(polynomial, w, -7219.26172f);
  polynomial = fmaf(polynomial, w, 1232.19775f);
  polynomial = fmaf(polynomial, w, -201.331299f);
  polynomial = fmaf(polynomial, w, 32.6308594f);
  polynomial = fmaf(polynomial, w, -5.61038637f);
  polynomial = fmaf(polynomial, w, 1.41336155f);
  return x * __saturatef(fmaf(v, polynomial, 0.5f));
}

// x / (1 + exp(-x)).
__device__ __forceinline__ float ds_silu_fast(float x) {
  constexpr float log2_e = 1.44269504f;
  return x * ds_reciprocal_fast(1.f + ds_exp2_fast(x * -log2_e));
}

#endif
