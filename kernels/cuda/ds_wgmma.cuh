// Hopper's warpgroup matrix instructions: 64 rows by N columns by 16, operands of half or bfloat16, float32
// accumulators.
//
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions". A thread holds N / 2 accumulators:
// those of columns 8j + 2(lane % 4) + {0, 1} in rows 16 · warp + lane / 4 (first two of each four) and 8
// below (last two).
#ifndef DS_WGMMA_CUH
#define DS_WGMMA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// The matrix in shared memory at `address` as rows of 128 bytes with the 128-byte swizzle that the tensor
// copy engine writes: 8 rows are 1,024 bytes.
__device__ __forceinline__ uint64_t ds_wgmma_descriptor(uint32_t address) {
  return (uint64_t)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

__device__ __forceinline__ void ds_wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void ds_wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int PENDING>
__device__ __forceinline__ void ds_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps the compiler from moving uses of accumulators across the wait before it.
template <int COUNT>
__device__ __forceinline__ void ds_wgmma_hold(float (&accumulators)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(accumulators[i])::"memory");
}

// Accumulators of 16 rows and 16 (or 8) columns, rounded and packed in pairs, to shared memory: lanes 0 to 15
// give the addresses of the 16 rows' first 8 columns, the others those of the next 8.
__device__ __forceinline__ void ds_store_4_matrices(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}
__device__ __forceinline__ void ds_store_2_matrices(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(words[0]),
               "r"(words[1])
               : "memory");
}

#define DS_ACCUMULATORS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DS_ACCUMULATORS_8(d, i) DS_ACCUMULATORS_4(d, i), DS_ACCUMULATORS_4(d, i + 4)
#define DS_ACCUMULATORS_16(d, i) DS_ACCUMULATORS_8(d, i), DS_ACCUMULATORS_8(d, i + 8)
#define DS_ACCUMULATORS_20(d, i) DS_ACCUMULATORS_16(d, i), DS_ACCUMULATORS_4(d, i + 16)
#define DS_ACCUMULATORS_32(d, i) DS_ACCUMULATORS_16(d, i), DS_ACCUMULATORS_16(d, i + 16)
#define DS_ACCUMULATORS_40(d, i) DS_ACCUMULATORS_32(d, i), DS_ACCUMULATORS_8(d, i + 32)
#define DS_ACCUMULATORS_64(d, i) DS_ACCUMULATORS_32(d, i), DS_ACCUMULATORS_32(d, i + 32)
#define DS_ACCUMULATORS_80(d, i) DS_ACCUMULATORS_64(d, i), DS_ACCUMULATORS_16(d, i + 64)
#define DS_ACCUMULATORS_96(d, i) DS_ACCUMULATORS_64(d, i), DS_ACCUMULATORS_32(d, i + 64)
#define DS_ACCUMULATORS_112(d, i) DS_ACCUMULATORS_96(d, i), DS_ACCUMULATORS_16(d, i + 96)
#define DS_ACCUMULATORS_128(d, i) DS_ACCUMULATORS_64(d, i), DS_ACCUMULATORS_64(d, i + 64)

#define DS_REGISTERS_4 "%0, %1, %2, %3"
#define DS_REGISTERS_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define DS_REGISTERS_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define DS_REGISTERS_20                                                                                      \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                   \
  "%16, %17, %18, %19"
#define DS_REGISTERS_32                                                                                      \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                   \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define DS_REGISTERS_40                                                                                      \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                   \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                         \
  "%32, %33, %34, %35, %36, %37, %38, %39"
#define DS_REGISTERS_64                                                                                      \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                   \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                         \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                         \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define DS_REGISTERS_80                                                                                      \
  DS_REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define DS_REGISTERS_96                                                                                      \
  DS_REGISTERS_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define DS_REGISTERS_112                                                                                     \
  DS_REGISTERS_96                                                                                            \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define DS_REGISTERS_128                                                                                     \
  DS_REGISTERS_112                                                                                           \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d (+)= a · bᵀ: both from shared memory, both K-major.
#define DS_DEFINE_WGMMA_SS(columns, count, type, name, a_index, b_index, scale_index)                        \
  __device__ __forceinline__ void ds_wgmma_ss(float(&d)[count], uint64_t a, uint64_t b, int accumulate,      \
                                              type) {                                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #scale_index ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." name "." name                       \
                 " {" DS_REGISTERS_##count "}, %" #a_index ", %" #b_index ", p, 1, 1, 0, 0;\n}"              \
                 : DS_ACCUMULATORS_##count(d, 0)                                                             \
                 : "l"(a), "l"(b), "r"(accumulate));                                                         \
  }

// d (+)= a · b: a from registers, b from shared memory with its columns contiguous.
#define DS_DEFINE_WGMMA_RS(columns, count, type, name, a0, a1, a2, a3, b_index, scale_index)                 \
  __device__ __forceinline__ void ds_wgmma_rs(float(&d)[count], const uint32_t(&a)[4], uint64_t b,           \
                                              int accumulate, type) {                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #scale_index ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." name "." name                       \
                 " {" DS_REGISTERS_##count "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b_index         \
                                           ", p, 1, 1, 1;\n}"                                                \
                 : DS_ACCUMULATORS_##count(d, 0)                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                     \
  }

// The last argument only chooses the type.
#define DS_DEFINE_WGMMA(type, name)                                                                          \
  DS_DEFINE_WGMMA_SS(64, 32, type, name, 32, 33, 34)                                                         \
  DS_DEFINE_WGMMA_SS(80, 40, type, name, 40, 41, 42)                                                         \
  DS_DEFINE_WGMMA_SS(128, 64, type, name, 64, 65, 66)                                                        \
  DS_DEFINE_WGMMA_SS(160, 80, type, name, 80, 81, 82)                                                        \
  DS_DEFINE_WGMMA_SS(224, 112, type, name, 112, 113, 114)                                                    \
  DS_DEFINE_WGMMA_SS(256, 128, type, name, 128, 129, 130)                                                    \
  DS_DEFINE_WGMMA_RS(8, 4, type, name, 4, 5, 6, 7, 8, 9)                                                     \
  DS_DEFINE_WGMMA_RS(16, 8, type, name, 8, 9, 10, 11, 12, 13)                                                \
  DS_DEFINE_WGMMA_RS(32, 16, type, name, 16, 17, 18, 19, 20, 21)                                             \
  DS_DEFINE_WGMMA_RS(40, 20, type, name, 20, 21, 22, 23, 24, 25)                                             \
  DS_DEFINE_WGMMA_RS(64, 32, type, name, 32, 33, 34, 35, 36, 37)
DS_DEFINE_WGMMA(__half, "f16")
DS_DEFINE_WGMMA(__nv_bfloat16, "bf16")

#endif
