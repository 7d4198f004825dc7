// Hopper's tensor copy engine and the barriers that its copies complete on.
//
// Source: PTX ISA, "cp.async.bulk.tensor" and "mbarrier".
#ifndef DS_TENSOR_COPY_CUH
#define DS_TENSOR_COPY_CUH

#include <cuda.h>
#include <stdint.h>

__device__ __forceinline__ uint32_t ds_shared_address(const void *pointer) {
  return (uint32_t)__cvta_generic_to_shared(pointer);
}

__device__ __forceinline__ void ds_barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

__device__ __forceinline__ void ds_barrier_expect_bytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes));
}

__device__ __forceinline__ void ds_barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier));
}

__device__ __forceinline__ void ds_barrier_wait(uint32_t barrier, uint32_t phase) {
  asm volatile("{\n"
               ".reg .pred p;\n"
               "again: mbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n"
               "@p bra done;\n"
               "bra again;\n"
               "done:\n"
               "}" ::"r"(barrier),
               "r"(phase)
               : "memory");
}

// A box of a 4-dimensional tensor, coordinates innermost first, to shared memory; `barrier` counts its bytes.
__device__ __forceinline__ void ds_tensor_copy_4d(uint32_t destination, const CUtensorMap *map, int c0,
                                                  int c1, int c2, int c3, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(destination),
               "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier)
               : "memory");
}

#endif
