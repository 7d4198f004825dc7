// Elements on the device: loaded and stored 16 bytes or one element at a time, computed with in float32.
#ifndef DS_CUDA_ELEMENTS_CUH
#define DS_CUDA_ELEMENTS_CUH

#include "ds_rows.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

// The widest access of one thread, and the alignment that it needs.
constexpr int DS_VECTOR_BYTES = 16;

template <typename T>
constexpr int ds_vector_width = DS_VECTOR_BYTES / (int)sizeof(T);

__device__ inline float ds_to_float(float value) {
  return value;
}
__device__ inline float ds_to_float(__half value) {
  return __half2float(value);
}
__device__ inline float ds_to_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

// Round to nearest even, as PyTorch does.
__device__ inline void ds_round(float value, float *rounded) {
  *rounded = value;
}
__device__ inline void ds_round(float value, __half *rounded) {
  *rounded = __float2half_rn(value);
}
__device__ inline void ds_round(float value, __nv_bfloat16 *rounded) {
  *rounded = __float2bfloat16_rn(value);
}

// A 4-byte word of elements as floats, and back; the last argument only names the type.
__device__ inline void ds_unpack_word(uint32_t word, float *values, const float *) {
  values[0] = __uint_as_float(word);
}
__device__ inline void ds_unpack_word(uint32_t word, float *values, const __half *) {
  __half2 pair;
  memcpy(&pair, &word, sizeof word);
  const float2 both = __half22float2(pair);
  values[0] = both.x;
  values[1] = both.y;
}
__device__ inline void ds_unpack_word(uint32_t word, float *values, const __nv_bfloat16 *) {
  // A bfloat16 is the upper half of a float32.
  values[0] = __uint_as_float(word << 16);
  values[1] = __uint_as_float(word & 0xffff0000u);
}
__device__ inline uint32_t ds_pack_word(const float *values, const float *) {
  return __float_as_uint(values[0]);
}
__device__ inline uint32_t ds_pack_word(const float *values, const __half *) {
  const __half2 pair = __floats2half2_rn(values[0], values[1]);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}
__device__ inline uint32_t ds_pack_word(const float *values, const __nv_bfloat16 *) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(values[0], values[1]);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

// WIDTH neighbouring elements as they lie in memory: as many as one access of DS_VECTOR_BYTES moves, or one.
// Kept as words, as 16-bit elements would take a register each.
template <typename T, int WIDTH>
struct ds_pack {
  static_assert(WIDTH == ds_vector_width<T>, "one element or one full access");
  uint32_t words[DS_VECTOR_BYTES / sizeof(uint32_t)];
};

template <typename T>
struct ds_pack<T, 1> {
  T element;
};

// Loads are named as plain ones of global memory, and stay in order with each other and with
// ds_wait_for_stream(). Those of the read-only cache (__ldg) do not: what they read must not change from the
// kernel's start on, which may be long before that.
template <typename T>
__device__ inline T ds_load_element(const T *address) {
  T element;
  if constexpr (sizeof(T) == sizeof(uint32_t)) {
    uint32_t bits;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(bits) : "l"(__cvta_generic_to_global(address)));
    memcpy(&element, &bits, sizeof element);
  } else {
    uint16_t bits;
    asm volatile("ld.global.b16 %0, [%1];" : "=h"(bits) : "l"(__cvta_generic_to_global(address)));
    memcpy(&element, &bits, sizeof element);
  }
  return element;
}

// The elements at `address` if they are `inside`, else zeros. No branch: those between loads would keep the
// compiler from issuing them together.
template <typename T, int WIDTH>
__device__ inline ds_pack<T, WIDTH> ds_load_if(bool inside, const T *address) {
  const size_t global = __cvta_generic_to_global(address);
  if constexpr (WIDTH > 1) {
    ds_pack<T, WIDTH> pack = {};
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\n"
                 "@p ld.global.v4.b32 {%0, %1, %2, %3}, [%5];\n}"
                 : "+r"(pack.words[0]), "+r"(pack.words[1]), "+r"(pack.words[2]), "+r"(pack.words[3])
                 : "r"((int)inside), "l"(global));
    return pack;
  } else {
    ds_pack<T, 1> pack;
    if constexpr (sizeof(T) == sizeof(uint32_t)) {
      uint32_t bits = 0;
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %1, 0;\n@p ld.global.b32 %0, [%2];\n}"
                   : "+r"(bits)
                   : "r"((int)inside), "l"(global));
      memcpy(&pack.element, &bits, sizeof bits);
    } else {
      uint16_t bits = 0;
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %1, 0;\n@p ld.global.b16 %0, [%2];\n}"
                   : "+h"(bits)
                   : "r"((int)inside), "l"(global));
      memcpy(&pack.element, &bits, sizeof bits);
    }
    return pack;
  }
}

template <typename T, int WIDTH>
__device__ inline void ds_unpack(const ds_pack<T, WIDTH> &pack, float (&values)[WIDTH]) {
  if constexpr (WIDTH == 1) {
    values[0] = ds_to_float(pack.element);
  } else {
    constexpr int word_elements = sizeof(uint32_t) / sizeof(T);
#pragma unroll
    for (int i = 0; i < WIDTH / word_elements; i++)
      ds_unpack_word(pack.words[i], values + i * word_elements, static_cast<const T *>(NULL));
  }
}

template <typename T, int WIDTH>
__device__ inline void ds_add_pack(const ds_pack<T, WIDTH> &pack, float (&values)[WIDTH]) {
  float addend[WIDTH];
  ds_unpack(pack, addend);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) values[i] += addend[i];
}

template <typename T, int WIDTH>
__device__ inline void ds_multiply_pack(const ds_pack<T, WIDTH> &pack, float (&values)[WIDTH]) {
  float factor[WIDTH];
  ds_unpack(pack, factor);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) values[i] *= factor[i];
}

// Named, because the compiler splits some assignments of a uint4 into four stores.
__device__ inline void ds_store_vector(void *address, uint4 bits) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)),
               "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w));
}

template <typename T, int WIDTH>
__device__ inline void ds_store_floats(T *address, const float (&values)[WIDTH]) {
  if constexpr (WIDTH == 1) {
    ds_round(values[0], address);
  } else {
    constexpr int word_elements = sizeof(uint32_t) / sizeof(T);
    uint32_t words[WIDTH / word_elements];
#pragma unroll
    for (int i = 0; i < WIDTH / word_elements; i++)
      words[i] = ds_pack_word(values + i * word_elements, static_cast<const T *>(NULL));
    ds_store_vector(address, make_uint4(words[0], words[1], words[2], words[3]));
  }
}

// Asks for the line of an address to be brought to the L2 cache.
constexpr int DS_LINE_BYTES = 128;
__device__ inline void ds_prefetch_line(const void *address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
}

// Element (row, 0) of a view; NULL for an absent one.
template <typename T>
__device__ inline T *ds_row_address(const ds_rows &view, int64_t row) {
  return view.data == NULL ? NULL : static_cast<T *>(view.data) + ds_rows_offset(&view, row);
}

#endif
