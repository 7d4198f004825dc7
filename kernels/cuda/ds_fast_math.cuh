// The special-function unit's approximations, for results that are rounded to 16 bits.
#ifndef DS_FAST_MATH_CUH
#define DS_FAST_MATH_CUH

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

#endif
