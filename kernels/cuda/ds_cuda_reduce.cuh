// Sums over the threads that share a row.
#ifndef DS_CUDA_REDUCE_CUH
#define DS_CUDA_REDUCE_CUH

constexpr int DS_WARP = 32;

// Sums of a row's deviations from some value near its mean, and of their squares.
struct ds_moments {
  float deviations;
  float squares;
};

__device__ inline ds_moments operator+(ds_moments a, ds_moments b) {
  return {a.deviations + b.deviations, a.squares + b.squares};
}

__device__ inline float ds_from_lane(float value, int distance) {
  return __shfl_xor_sync(0xffffffffu, value, distance);
}
__device__ inline ds_moments ds_from_lane(ds_moments value, int distance) {
  return {ds_from_lane(value.deviations, distance), ds_from_lane(value.squares, distance)};
}

// The sum over groups of `lanes` neighbouring lanes (a power of two up to 32), in each of them. All lanes of
// the warp take part.
template <typename Value>
__device__ Value ds_sum_lanes(Value value, int lanes) {
#pragma unroll
  for (int distance = DS_WARP / 2; distance > 0; distance /= 2)
    if (distance < lanes) value = value + ds_from_lane(value, distance);
  return value;
}

// The sum over the threads of one row, in each of them. A row has THREADS threads, or blockDim.x where that
// is 0: a power of two up to 32 with any number of rows in the block, or full warps with one row. `partials`
// is shared memory for 32 values that no other thread still reads: two calls in a row need two of them.
template <int THREADS, typename Value>
__device__ Value ds_sum_row(Value value, Value *partials) {
  const int threads = THREADS > 0 ? THREADS : (int)blockDim.x;
  value = ds_sum_lanes(value, min(threads, DS_WARP));
  if (threads <= DS_WARP) return value;
  const int lane = threadIdx.x % DS_WARP, warp = threadIdx.x / DS_WARP;
  if (lane == 0) partials[warp] = value;
  __syncthreads();
  // Each thread reads them all, which is sooner done than a second round of exchanges between lanes.
  value = partials[0];
  for (int i = 1; i < threads / DS_WARP; i++) value = value + partials[i];
  return value;
}

#endif
