// Exact GELU and SiLU with the special-function unit's exponential and reciprocal: for results that are
// rounded to 16 bits, as an epilogue of products that leave no time for erff and expf.
//
// Infinities and NaN come out as from torch.nn.functional.gelu and silu.
#ifndef DS_GATED_ACTIVATIONS_CUH
#define DS_GATED_ACTIVATIONS_CUH

__device__ __forceinline__ float ds_exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float ds_reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// x · Φ(x), Φ the normal distribution function: x · ½(1 + erf(x / √2)), within 6e-6 and, where that is less,
// 1.5e-4 of the result (up to |x| = 6).
//
// With a = |x|, x · Φ(x) = max(x, 0) - a · Φ(-a), and Φ(-a) = exp(-a²/2) · P(1 / (1 + p·a)) as Abramowitz and
// Stegun's 7.1.25; p and P are fitted by scripts/tools/fit_cuda_activations.py.
__device__ __forceinline__ float ds_gelu_fast(float x) {
  constexpr float p = 0.470f, minus_half_log2_e = -0.72134752f;
  const float a = fminf(fabsf(x), 64.f); // where the exponential is zero; an infinity would make that NaN
  const float exponential = ds_exp2_fast(a * a * minus_half_log2_e);
  const float t = ds_reciprocal_fast(fmaf(p, a, 1.f));
  float polynomial = -0.12314849f;
  polynomial = fmaf(polynomial, t, 0.284564095f);
  polynomial = fmaf(polynomial, t, 0.14675106f);
  polynomial = fmaf(polynomial, t, 0.191760626f);
  const float tail = exponential * t * polynomial;
  // A product with 0 or 1 and not a maximum, so that NaN stays and minus infinity becomes it.
  return fmaf(-a, tail, x * (x > 0.f ? 1.f : 0.f));
}

// x / (1 + exp(-x)).
__device__ __forceinline__ float ds_silu_fast(float x) {
  constexpr float log2_e = 1.44269504f;
  return x * ds_reciprocal_fast(1.f + ds_exp2_fast(x * -log2_e));
}

#endif
