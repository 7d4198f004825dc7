// Sums over the threads that share a row.
#ifndef DS_CUDA_REDUCE_CUH
#define DS_CUDA_REDUCE_CUH

constexpr int DS_WARP = 32;

// The sum over groups of `lanes` neighbouring lanes (a power of two up to 32), in each of them. All lanes of
// the warp take part.
__device__ inline float ds_sum_lanes(float value, int lanes) {
#pragma unroll
  for (int distance = DS_WARP / 2; distance > 0; distance /= 2)
    if (distance < lanes) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// The sum over the threads of one row, in each of them. A row has blockDim.x threads: a power of two up to 32
// with any number of rows in the block, or full warps with one row. `partials` is shared memory for 32 floats
// that no other thread still reads: two calls in a row need two of them.
__device__ inline float ds_sum_row(float value, float *partials) {
  value = ds_sum_lanes(value, min((int)blockDim.x, DS_WARP));
  if (blockDim.x <= DS_WARP) return value;
  const int lane = threadIdx.x % DS_WARP, warp = threadIdx.x / DS_WARP, warps = blockDim.x / DS_WARP;
  if (lane == 0) partials[warp] = value;
  __syncthreads();
  return ds_sum_lanes(lane < warps ? partials[lane] : 0.0f, DS_WARP);
}

#endif
