// Exact GELU and SiLU for results that are rounded to 16 bits, where neither products nor the memory leave
// time for erff and expf.
//
// Infinities and NaN come out as from torch.nn.functional.gelu and silu.
#ifndef DS_GATED_ACTIVATIONS_CUH
#define DS_GATED_ACTIVATIONS_CUH

#include "ds_fast_math.cuh"

// x · Φ(x), Φ the normal distribution function: x · ½(1 + erf(x / √2)), without the cancellation of 1 + erf
// on the negative side.
//
// Φ(-|x|) = 2^Q(|x|). Down to -7, where it is 1.3e-12, the polynomial's relative error is 1.4e-5, a thirtieth
// of what rounding to float16 may add; further down it falls faster than Φ. It is fitted by
// scripts/tools/fit_cuda_activations.py.
__device__ __forceinline__ float ds_gelu_fast(float x) {
  const float a = fabsf(x);
  float power = -1.58821808e-06f;
  power = fmaf(power, a, 5.61533961e-05f);
  power = fmaf(power, a, -0.000883215747f);
  power = fmaf(power, a, 0.00830322038f);
  power = fmaf(power, a, -0.0535013191f);
  power = fmaf(power, a, -0.458964318f);
  power = fmaf(power, a, -1.15103567f);
  power = fmaf(power, a, -1.00001395f);
  const float left = ds_exp2_fast(power);
  return x * (x > 0.f ? 1.f - left : left);
}

// x / (1 + exp(-x)).
__device__ __forceinline__ float ds_silu_fast(float x) {
  constexpr float log2_e = 1.44269504f;
  return x * ds_reciprocal_fast(1.f + ds_exp2_fast(x * -log2_e));
}

#endif
