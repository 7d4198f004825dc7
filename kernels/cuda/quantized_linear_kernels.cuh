// A linear with an int8 weight on Hopper, for few rows: such products are bound by reading the weight, of
// which int8 is half, and by there being too few tiles for the multiprocessors.
//
// A tile is 128 or 256 rows by WEIGHT_ROWS rows of the weight. The copy engine brings input and bytes to
// shared memory; some warps turn the bytes into 16-bit integers in the layout that the matrix units read; two
// warpgroups multiply half of the rows each. Integers of 8 bits are exact in both 16-bit types, so the scale
// of a row is a factor of its sums. Where tiles are few, the thread blocks of a cluster share one: each sums
// a part of the depth, and a part of the rows of all their sums; always in the same order.
//
// Only Hopper's own target (sm_90a) has these instructions: for any other the kernels are empty, and must not
// be launched.
#ifndef DS_QUANTIZED_LINEAR_KERNELS_CUH
#define DS_QUANTIZED_LINEAR_KERNELS_CUH

#include "ds_cuda_elements.cuh"
#include "ds_cuda_stream_order.cuh"
#include "ds_gated_activations.cuh"
#include "ds_tensor_copy.cuh"
#include "ds_wgmma.cuh"
#include <cuda_runtime.h>

namespace {

// GATED: a tile has as many rows of the values' half of the weight as of the gates'.
template <int ROWS_, int WEIGHT_ROWS_, bool GATED_>
struct quantized_linear_shape {
  static constexpr int ROWS = ROWS_, WEIGHT_ROWS = WEIGHT_ROWS_;
  static constexpr bool GATED = GATED_;
  static constexpr int HALVES = GATED ? 2 : 1, COLS = WEIGHT_ROWS / HALVES; // of the output
  static constexpr int WARPGROUPS = 2, STRIPS = ROWS / (64 * WARPGROUPS);   // of 64 rows, of a warpgroup
  static_assert(ROWS == 64 * WARPGROUPS * STRIPS, "warpgroups multiply strips of 64 rows");
  // The first threads copy, with one of them, and convert, with warps behind the first. Ten have a piece of
  // 80 rows for each thread; for 160 rows the registers are needed elsewhere.
  static constexpr int HELPERS = WEIGHT_ROWS == 80 ? 384 : 256, CONVERTERS = WEIGHT_ROWS == 80 ? 10 : 7;
  static constexpr int THREADS = HELPERS + 128 * WARPGROUPS;
  // Of a thread: as all have them, and as the helpers leave them to those who multiply.
  static constexpr int REGISTERS = HELPERS == 256 ? 128 : 96, HELPING_REGISTERS = HELPERS == 256 ? 56 : 64;
  static constexpr int MULTIPLYING_REGISTERS = HELPERS == 256 ? 200 : 144;
  static_assert(HELPERS * HELPING_REGISTERS + 128 * WARPGROUPS * MULTIPLYING_REGISTERS <= THREADS * REGISTERS,
                "who asks for more registers than the thread block has waits for ever");
  static constexpr int DEPTH = 64, ROW_BYTES = 2 * DEPTH; // of a block, as the swizzle wants it

  static constexpr int INPUT_BYTES = ROWS * ROW_BYTES, QUANTIZED_BYTES = WEIGHT_ROWS * DEPTH;
  static constexpr int STAGE_BYTES = INPUT_BYTES + QUANTIZED_BYTES;
  static constexpr int WEIGHT_BYTES = WEIGHT_ROWS * ROW_BYTES, WEIGHTS = 3; // converted
  static_assert(STAGE_BYTES % 1024 == 0 && WEIGHT_BYTES % 1024 == 0, "the swizzle repeats every 1,024 bytes");

  static constexpr int MOST_SHARED_BYTES = 227 << 10, BARRIER_BYTES = 256;
  static constexpr int OTHER_BYTES = WEIGHTS * WEIGHT_BYTES + 2 * WEIGHT_ROWS * 4 + BARRIER_BYTES;
  static constexpr int STAGES_THAT_FIT = (MOST_SHARED_BYTES - OTHER_BYTES) / STAGE_BYTES;
  static constexpr int STAGES = STAGES_THAT_FIT < 8 ? STAGES_THAT_FIT : 8;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + OTHER_BYTES;

  // Floats from one row of sums to the next: four of them and the next four fall into different banks.
  static constexpr int SUM_PITCH = WEIGHT_ROWS + 8;
  static_assert(SUM_PITCH % 16 == 8, "rows of sums meet in the same banks");
  static_assert(ROWS * SUM_PITCH * 4 <= STAGES * STAGE_BYTES + WEIGHTS * WEIGHT_BYTES,
                "the sums take the operands' place");
};

struct quantized_linear_arguments {
  const float *scale;   // of each row of the weight
  const void *bias;     // of each row of the weight; NULL: none
  const void *residual; // NULL: none
  int64_t residual_row_stride;
  void *output;
  int64_t output_row_stride;
  int rows, cols;
  int row_tiles;
  int depth_blocks;
  int splits; // thread blocks that share a tile: 1, 2, 4 or 8
  bool silu;
};

// Addresses in shared memory.
template <class SHAPE>
struct quantized_linear_memory {
  uint32_t base;
  __device__ uint32_t input(int stage) const { return base + stage * SHAPE::STAGE_BYTES; }
  __device__ uint32_t quantized(int stage) const { return input(stage) + SHAPE::INPUT_BYTES; }
  __device__ uint32_t weight(int place) const { return input(SHAPE::STAGES) + place * SHAPE::WEIGHT_BYTES; }
  __device__ uint32_t scale() const { return weight(SHAPE::WEIGHTS); }
  __device__ uint32_t bias() const { return scale() + SHAPE::WEIGHT_ROWS * 4; }
  __device__ uint32_t full(int stage) const { return bias() + SHAPE::WEIGHT_ROWS * 4 + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return full(SHAPE::STAGES + stage); }
  __device__ uint32_t converted(int place) const { return empty(SHAPE::STAGES) + 8 * place; }
  __device__ uint32_t multiplied(int place) const { return converted(SHAPE::WEIGHTS + place); }
  // In place of the operands, once all products are done.
  __device__ uint32_t sum(int row, int col) const { return base + (row * SHAPE::SUM_PITCH + col) * 4; }
};

// What a thread block computes: a tile's products over a part of the depth.
struct quantized_linear_part {
  int row, col;            // the first of the tile
  int rank;                // among the thread blocks that share the tile
  int first_block, blocks; // of depth; at least one
};

template <class SHAPE>
__device__ quantized_linear_part locate_part(const quantized_linear_arguments &arguments) {
  const int tile = blockIdx.x / arguments.splits, rank = blockIdx.x % arguments.splits;
  const int first = arguments.depth_blocks * rank / arguments.splits;
  const int end = arguments.depth_blocks * (rank + 1) / arguments.splits;
  // Tiles that share a part of the weight follow each other.
  return {tile % arguments.row_tiles * SHAPE::ROWS, tile / arguments.row_tiles * SHAPE::COLS, rank, first,
          end - first};
}

// The copying thread.
template <class SHAPE>
__device__ void copy_operands(const CUtensorMap *input_map, const CUtensorMap *weight_map,
                              quantized_linear_part part, quantized_linear_memory<SHAPE> memory) {
  ds_ring_place<SHAPE::STAGES> place;
  for (int block = 0; block < part.blocks; block++, place.advance()) {
    const int depth = (part.first_block + block) * SHAPE::DEPTH;
    const uint32_t full = memory.full(place.stage);
    ds_barrier_wait(memory.empty(place.stage), place.phase ^ 1);
    ds_barrier_expect_bytes(full, SHAPE::STAGE_BYTES);
    ds_tensor_copy_2d(memory.input(place.stage), input_map, depth, part.row, full);
    ds_tensor_copy_3d(memory.quantized(place.stage), weight_map, depth, part.col, 0, full);
  }
}

// Asks for the weight, which the work ahead in the stream has most likely left alone, to be brought to the L2
// cache: a hint, whatever that work does.
template <class SHAPE>
__device__ void prefetch_weight(const CUtensorMap *weight_map, quantized_linear_part part) {
  constexpr int most = 20;
  for (int block = 0; block < min(most, part.blocks); block++)
    ds_tensor_prefetch_3d(weight_map, (part.first_block + block) * SHAPE::DEPTH, part.col, 0);
}

// Four bytes as signed integers in two pairs of 16-bit floating-point numbers.
__device__ __forceinline__ void widen(uint32_t bytes, uint32_t (&pairs)[2], __half) {
  // A byte b as the low bits of 1024 is 1024 + b; with its sign bit turned, b + 128 + 1024.
  const __half2 offset = __half2half2(__ushort_as_half(0x6480)); // 1152
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t word = __byte_perm(bytes ^ 0x80808080u, 0x64646464u, i == 0 ? 0x4140 : 0x4342);
    const __half2 pair = __hsub2(*reinterpret_cast<const __half2 *>(&word), offset);
    pairs[i] = *reinterpret_cast<const uint32_t *>(&pair);
  }
}
__device__ __forceinline__ void widen(uint32_t bytes, uint32_t (&pairs)[2], __nv_bfloat16) {
  // There is room for seven bits below 128: those are added to it, and the sign bit makes 256 of the 128 that
  // is taken away.
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t word = __byte_perm(bytes, 0, i == 0 ? 0x4140 : 0x4342);
    const uint32_t sum = (word & 0x007f007fu) | 0x43004300u, offset = (word & 0x00800080u) | 0x43004300u;
    const __nv_bfloat162 pair = __hsub2(*reinterpret_cast<const __nv_bfloat162 *>(&sum),
                                        *reinterpret_cast<const __nv_bfloat162 *>(&offset));
    pairs[i] = *reinterpret_cast<const uint32_t *>(&pair);
  }
}

__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 bits;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "r"(address));
  return bits;
}
__device__ __forceinline__ void store_shared(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(words[0]), "r"(words[1]),
               "r"(words[2]), "r"(words[3])
               : "memory");
}

// 16 bytes, number `index` of a block's, to where the swizzle wants the elements that they make.
template <typename T>
__device__ __forceinline__ void convert_bytes(uint4 bytes, uint32_t weight, int index) {
  const int row = index / 4, unit = index % 4 * 2; // of 8 elements
  const uint32_t row_address = weight + row * 128;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    uint32_t low[2], high[2];
    widen(i == 0 ? bytes.x : bytes.z, low, T());
    widen(i == 0 ? bytes.y : bytes.w, high, T());
    store_shared(row_address + ((unit + i) ^ (row & 7)) * 16, {low[0], low[1], high[0], high[1]});
  }
}

// The converting warps; `thread` counts in all of them.
template <typename T, class SHAPE>
__device__ void convert_weight(quantized_linear_part part, quantized_linear_memory<SHAPE> memory,
                               int thread) {
  constexpr int threads = 32 * SHAPE::CONVERTERS, pieces = SHAPE::QUANTIZED_BYTES / 16;
  constexpr int rounds = (pieces + threads - 1) / threads;
  ds_ring_place<SHAPE::STAGES> place;
  ds_ring_place<SHAPE::WEIGHTS> weight;
  for (int block = 0; block < part.blocks; block++, place.advance(), weight.advance()) {
    uint4 bytes[rounds];
    ds_barrier_wait(memory.full(place.stage), place.phase);
#pragma unroll
    for (int i = 0; i < rounds; i++)
      if (thread + i * threads < pieces)
        bytes[i] = load_shared(memory.quantized(place.stage) + (thread + i * threads) * 16);
    ds_barrier_wait(memory.multiplied(weight.stage), weight.phase ^ 1);
#pragma unroll
    for (int i = 0; i < rounds; i++)
      if (thread + i * threads < pieces)
        convert_bytes<T>(bytes[i], memory.weight(weight.stage), thread + i * threads);
    ds_tensor_store_fence(); // the matrix units read as the copy engine does
    __syncwarp();
    if (thread % 32 == 0) {
      ds_barrier_arrive(memory.converted(weight.stage));
      ds_barrier_arrive(memory.empty(place.stage));
    }
  }
}

// sums = input · weightᵀ for the strips of warpgroup `index`.
template <typename T, class SHAPE>
__device__ __forceinline__ void multiply(float (&sums)[SHAPE::STRIPS][SHAPE::WEIGHT_ROWS / 2],
                                         quantized_linear_part part, quantized_linear_memory<SHAPE> memory,
                                         int index, bool leader) {
  constexpr int strip_bytes = 64 * SHAPE::ROW_BYTES, strip_step = strip_bytes / 16; // in a descriptor
  ds_ring_place<SHAPE::STAGES> place;
  ds_ring_place<SHAPE::WEIGHTS> weight;
  int previous_stage = 0, previous_weight = 0;
  for (int block = 0; block < part.blocks; block++) {
    const uint64_t a = ds_wgmma_descriptor(memory.input(place.stage) + index * SHAPE::STRIPS * strip_bytes);
    const uint64_t b = ds_wgmma_descriptor(memory.weight(weight.stage));
    ds_barrier_wait(memory.full(place.stage), place.phase);
    ds_barrier_wait(memory.converted(weight.stage), weight.phase);
    ds_wgmma_fence();
#pragma unroll
    for (int step = 0; step < SHAPE::DEPTH / 16; step++)
#pragma unroll
      for (int strip = 0; strip < SHAPE::STRIPS; strip++)
        ds_wgmma_ss(sums[strip], a + strip * strip_step + 2 * step, b + 2 * step, (block | step) != 0, T());
    ds_wgmma_commit();
    if (block > 0) {
      ds_wgmma_wait<1>();
      if (leader) {
        ds_barrier_arrive(memory.empty(previous_stage));
        ds_barrier_arrive(memory.multiplied(previous_weight));
      }
    }
    previous_stage = place.stage;
    previous_weight = weight.stage;
    place.advance();
    weight.advance();
  }
  ds_wgmma_wait<0>();
#pragma unroll
  for (int strip = 0; strip < SHAPE::STRIPS; strip++) ds_wgmma_hold(sums[strip]);
}

// Scale and bias of the tile's rows of the weight, as float32, to shared memory.
template <typename T, class SHAPE>
__device__ void keep_factors(const quantized_linear_arguments &arguments, quantized_linear_part part,
                             quantized_linear_memory<SHAPE> memory, int thread) {
  if (thread >= SHAPE::WEIGHT_ROWS) return;
  const int col = part.col + thread % SHAPE::COLS;
  const bool inside = col < arguments.cols;
  const int64_t index = (int64_t)(thread / SHAPE::COLS) * arguments.cols + col;
  const T *const bias = static_cast<const T *>(arguments.bias);
  ds_store_shared(memory.scale() + thread * 4, inside ? ds_load_element(arguments.scale + index) : 0.f);
  ds_store_shared(memory.bias() + thread * 4,
                  inside && bias != NULL ? ds_to_float(ds_load_element(bias + index)) : 0.f);
}

// The computing warpgroups, up to their sums in shared memory.
template <typename T, class SHAPE>
__device__ void compute_sums(const quantized_linear_arguments &arguments, quantized_linear_part part,
                             quantized_linear_memory<SHAPE> memory, int thread) {
  float sums[SHAPE::STRIPS][SHAPE::WEIGHT_ROWS / 2];
  keep_factors<T>(arguments, part, memory, thread);
  multiply<T, SHAPE>(sums, part, memory, thread / 128, thread % 128 == 0);
  // Both have read the operands to the end.
  asm volatile("bar.sync 1, %0;" ::"n"(128 * SHAPE::WARPGROUPS) : "memory");
  const int col = thread % 4 * 2;
#pragma unroll
  for (int strip = 0; strip < SHAPE::STRIPS; strip++) {
    const int row = (thread / 128 * SHAPE::STRIPS + strip) * 64 + thread % 128 / 32 * 16 + thread % 32 / 4;
#pragma unroll
    for (int i = 0; i < SHAPE::WEIGHT_ROWS / 2; i += 2)
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(memory.sum(row + i / 2 % 2 * 8, col + i / 4 * 8)),
                   "f"(sums[strip][i]), "f"(sums[strip][i + 1])
                   : "memory");
  }
}

__device__ __forceinline__ void add_floats(uint4 bits, float (&values)[4]) {
  values[0] += __uint_as_float(bits.x);
  values[1] += __uint_as_float(bits.y);
  values[2] += __uint_as_float(bits.z);
  values[3] += __uint_as_float(bits.w);
}

__device__ __forceinline__ uint4 load_shared_of(int rank, uint32_t address) {
  uint4 bits;
  asm volatile("{\n"
               ".reg .b32 remote;\n"
               "mapa.shared::cluster.u32 remote, %4, %5;\n"
               "ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [remote];\n"
               "}"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "r"(address), "r"(rank));
  return bits;
}

// Four sums, over the whole depth, with scale and bias: `col` counts in the tile's rows of the weight.
template <class SHAPE>
__device__ __forceinline__ void load_sums(quantized_linear_memory<SHAPE> memory, int splits, int row, int col,
                                          float (&values)[4]) {
  constexpr int most = 8;
  const uint32_t address = memory.sum(row, col);
  float scale[4] = {}, bias[4] = {};
#pragma unroll
  for (int i = 0; i < 4; i++) values[i] = 0.f;
  if (splits == 1) {
    add_floats(load_shared(address), values);
  } else {
    uint4 parts[most];
#pragma unroll
    for (int rank = 0; rank < most; rank++)
      if (rank < splits) parts[rank] = load_shared_of(rank, address);
#pragma unroll
    for (int rank = 0; rank < most; rank++)
      if (rank < splits) add_floats(parts[rank], values);
  }
  add_floats(load_shared(memory.scale() + col * 4), scale);
  add_floats(load_shared(memory.bias() + col * 4), bias);
#pragma unroll
  for (int i = 0; i < 4; i++) values[i] = fmaf(values[i], scale[i], bias[i]);
}

// Four elements of a tile's output.
template <class SHAPE>
struct output_piece {
  int row, col; // within the tile
  bool inside;
  __device__ output_piece(const quantized_linear_arguments &arguments, quantized_linear_part part,
                          int index) {
    constexpr int pieces = SHAPE::COLS / 4;
    const int rows = SHAPE::ROWS / arguments.splits;
    row = part.rank * rows + index / pieces;
    col = index % pieces * 4;
    inside = index < rows * pieces && part.row + row < arguments.rows && part.col + col < arguments.cols;
  }
  template <typename T>
  __device__ T *of(T *matrix, int64_t row_stride, quantized_linear_part part) const {
    return matrix + (part.row + row) * row_stride + part.col + col;
  }
};

template <typename T, class SHAPE>
__device__ __forceinline__ void finish_piece(const quantized_linear_arguments &arguments,
                                             quantized_linear_memory<SHAPE> memory, output_piece<SHAPE> piece,
                                             uint2 residual, T *output) {
  float values[4], others[4];
  load_sums(memory, arguments.splits, piece.row, piece.col, values);
  if (SHAPE::GATED) {
    load_sums(memory, arguments.splits, piece.row, SHAPE::COLS + piece.col, others);
#pragma unroll
    for (int i = 0; i < 4; i++)
      values[i] *= arguments.silu ? ds_silu_fast(others[i]) : ds_gelu_fast(others[i]);
  } else {
    ds_unpack_word(residual.x, others, static_cast<const T *>(NULL));
    ds_unpack_word(residual.y, others + 2, static_cast<const T *>(NULL));
#pragma unroll
    for (int i = 0; i < 4; i++) values[i] += others[i];
  }
  *reinterpret_cast<uint2 *>(output) = make_uint2(ds_pack_word(values, static_cast<const T *>(NULL)),
                                                  ds_pack_word(values + 2, static_cast<const T *>(NULL)));
}

// All threads: this thread block's share of the tile's rows, from sums to memory. Residuals of some pieces
// are asked for together.
template <typename T, class SHAPE>
__device__ void finish_rows(const quantized_linear_arguments &arguments, quantized_linear_part part,
                            quantized_linear_memory<SHAPE> memory) {
  constexpr int together = SHAPE::GATED ? 1 : 4;
  const int pieces = SHAPE::ROWS / arguments.splits * (SHAPE::COLS / 4);
  const T *const residual = static_cast<const T *>(arguments.residual);
  for (int first = threadIdx.x; first < pieces; first += SHAPE::THREADS * together) {
    uint2 residuals[together] = {};
#pragma unroll
    for (int i = 0; i < together; i++) {
      const output_piece<SHAPE> piece(arguments, part, first + i * SHAPE::THREADS);
      if (residual != NULL && piece.inside)
        residuals[i] =
            *reinterpret_cast<const uint2 *>(piece.of(residual, arguments.residual_row_stride, part));
    }
#pragma unroll
    for (int i = 0; i < together; i++) {
      const output_piece<SHAPE> piece(arguments, part, first + i * SHAPE::THREADS);
      if (piece.inside)
        finish_piece<T, SHAPE>(
            arguments, memory, piece, residuals[i],
            piece.of(static_cast<T *>(arguments.output), arguments.output_row_stride, part));
    }
  }
}

template <typename T, class SHAPE>
__global__ void __launch_bounds__(SHAPE::THREADS, 1)
    quantized_linear_kernel(const __grid_constant__ CUtensorMap input_map,
                            const __grid_constant__ CUtensorMap weight_map,
                            const __grid_constant__ quantized_linear_arguments arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const quantized_linear_memory<SHAPE> memory = {ds_shared_address(shared)};
  const quantized_linear_part part = locate_part<SHAPE>(arguments);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < SHAPE::STAGES; stage++) {
      ds_barrier_init(memory.full(stage), 1);
      ds_barrier_init(memory.empty(stage), SHAPE::WARPGROUPS + SHAPE::CONVERTERS);
    }
    for (int place = 0; place < SHAPE::WEIGHTS; place++) {
      ds_barrier_init(memory.converted(place), SHAPE::CONVERTERS);
      ds_barrier_init(memory.multiplied(place), SHAPE::WARPGROUPS);
    }
    ds_barrier_init_fence();
    prefetch_weight<SHAPE>(&weight_map, part);
  }
  __syncthreads();
  ds_wait_for_stream();
  if (threadIdx.x >= SHAPE::HELPERS) {
    if (SHAPE::STRIPS > 1)
      asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(SHAPE::MULTIPLYING_REGISTERS));
    compute_sums<T>(arguments, part, memory, (int)threadIdx.x - SHAPE::HELPERS);
    if (SHAPE::STRIPS > 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(SHAPE::REGISTERS));
  } else {
    if (SHAPE::STRIPS > 1)
      asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(SHAPE::HELPING_REGISTERS));
    if (threadIdx.x == 0)
      copy_operands(&input_map, &weight_map, part, memory);
    else if (threadIdx.x >= 32 && threadIdx.x < 32 + 32 * SHAPE::CONVERTERS)
      convert_weight<T>(part, memory, (int)threadIdx.x - 32);
    __syncwarp();
    if (SHAPE::STRIPS > 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(SHAPE::REGISTERS));
  }
  if (arguments.splits > 1)
    ds_cluster_synchronise();
  else
    __syncthreads();
  finish_rows<T, SHAPE>(arguments, part, memory);
  // Others of the cluster may still read this block's sums.
  if (arguments.splits > 1) ds_cluster_synchronise();
#endif
}

} // namespace

#endif
