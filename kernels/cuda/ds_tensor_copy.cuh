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

__device__ __forceinline__ void ds_store_shared(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

__device__ __forceinline__ float2 ds_load_shared_pair(uint32_t address) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(address) : "memory");
  return pair;
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

// Makes initialised barriers known to the copy engine and to other thread blocks.
__device__ __forceinline__ void ds_barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// All threads of the cluster, converged or not: what they wrote before is visible after.
__device__ __forceinline__ void ds_cluster_synchronise() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// A place in a ring of stages, and the parity of its barriers.
template <int STAGES>
struct ds_ring_place {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void advance() {
    if (++stage == STAGES) stage = 0, phase ^= 1;
  }
};

// Fetches the description of a tensor, which the first copy would wait for.
__device__ __forceinline__ void ds_tensor_map_prefetch(const CUtensorMap *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of a tensor, coordinates innermost first, to shared memory; `barrier` counts its bytes. What lies
// past the tensor's ends arrives as zeros, and counts.
__device__ __forceinline__ void ds_tensor_copy_2d(uint32_t destination, const CUtensorMap *map, int c0,
                                                  int c1, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3}], [%4];" ::"r"(destination),
               "l"(map), "r"(c0), "r"(c1), "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void ds_tensor_copy_3d(uint32_t destination, const CUtensorMap *map, int c0,
                                                  int c1, int c2, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(destination),
               "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void ds_tensor_copy_4d(uint32_t destination, const CUtensorMap *map, int c0,
                                                  int c1, int c2, int c3, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(destination),
               "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier)
               : "memory");
}

// Brings a box to the L2 cache.
__device__ __forceinline__ void ds_tensor_prefetch_3d(const CUtensorMap *map, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(map), "r"(c0),
               "r"(c1), "r"(c2)
               : "memory");
}

// Copies the other way, in groups that the issuing thread commits and waits for. What lies past the tensor's
// ends is left out.
__device__ __forceinline__ void ds_tensor_store_2d(const CUtensorMap *map, int c0, int c1, uint32_t source) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
               "r"(c0), "r"(c1), "r"(source)
               : "memory");
}
__device__ __forceinline__ void ds_tensor_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all groups are complete, or have at least read shared memory.
__device__ __forceinline__ void ds_tensor_store_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
__device__ __forceinline__ void ds_tensor_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Makes this thread's ordinary writes to shared memory visible to the copy engine.
__device__ __forceinline__ void ds_tensor_store_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif
