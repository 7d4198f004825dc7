// The kernels of linear_tuner_cuda.h.
#include "ds_cuda_launch.cuh"
#include "linear_tuner_cuda.h"

namespace {

// Bits of one element or two: sign, fraction and the exponent's lowest bit are random.
struct pattern {
  unsigned fixed;
  unsigned random;
};

pattern pattern_of(ds_dtype dtype) {
  switch (dtype) {
  case DS_FLOAT16:
    return {0x30003000u, 0x87ff87ffu};
  case DS_BFLOAT16:
    return {0x3e003e00u, 0x80ff80ffu};
  default:
    return {0x3e000000u, 0x80ffffffu};
  }
}

// Every bit of the result depends on every bit of x: the last step of the hash MurmurHash3.
__device__ unsigned scramble(unsigned x) {
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return x ^ x >> 16;
}

__global__ void fill_kernel(uint4 *memory, size_t vectors, pattern bits) {
  const size_t step = (size_t)gridDim.x * blockDim.x;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < vectors; i += step) {
    const unsigned first = (unsigned)(i * 4);
    memory[i] = make_uint4(
        bits.fixed | (scramble(first) & bits.random), bits.fixed | (scramble(first + 1) & bits.random),
        bits.fixed | (scramble(first + 2) & bits.random), bits.fixed | (scramble(first + 3) & bits.random));
  }
}

__device__ unsigned long long now_in_nanoseconds() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__global__ void hold_kernel(unsigned long long nanoseconds) {
  const unsigned long long start = now_in_nanoseconds();
  while (now_in_nanoseconds() - start < nanoseconds) __nanosleep(1000);
}

} // namespace

ds_status ds_linear_tuner_fill(void *memory, size_t bytes, ds_dtype dtype, cudaStream_t stream) {
  const size_t vectors = bytes / sizeof(uint4);
  return ds_launch("fill", fill_kernel, dim3(1024), dim3(256), 0, stream, static_cast<uint4 *>(memory),
                   vectors, pattern_of(dtype));
}

ds_status ds_linear_tuner_hold(unsigned microseconds, cudaStream_t stream) {
  return ds_launch("hold", hold_kernel, dim3(1), dim3(1), 0, stream, (unsigned long long)microseconds * 1000);
}
