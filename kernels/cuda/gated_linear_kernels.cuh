// A linear and the gated activation of its result on Hopper: one kernel, so that the result of twice the
// output's width never reaches memory.
//
// A tile of the output is 64 rows for each of two warpgroups by COLS columns. A warpgroup computes
// the values' COLS columns and the gates' COLS columns in one instruction: the weight's rows of both lie one
// behind the other in shared memory, so a thread holds an output's value and gate in two registers. Each
// warpgroup runs some blocks of the depth ahead of the next: the activations of one are computed under the
// products of the others, and all still read the same copy of the weight.
//
// Only Hopper's own target (sm_90a) has these instructions: for any other the kernels are empty, and must not
// be launched.
#ifndef DS_GATED_LINEAR_KERNELS_CUH
#define DS_GATED_LINEAR_KERNELS_CUH

#include "ds_cuda_elements.cuh"
#include "ds_cuda_stream_order.cuh"
#include "ds_gated_activation_params.h"
#include "ds_gated_activations.cuh"
#include "ds_tensor_copy.cuh"
#include "ds_wgmma.cuh"
#include <cuda_runtime.h>

namespace {

template <int COLS_>
struct gated_linear_shape {
  static constexpr int COLS = COLS_, WARPGROUPS = 2, ROWS = 64 * WARPGROUPS;
  static constexpr int THREADS = 128 * (1 + WARPGROUPS);
  static constexpr int COPYING_REGISTERS = 40, COMPUTING_REGISTERS = 232; // of a thread
  static constexpr int DEPTH = 64, ROW_BYTES = 2 * DEPTH; // of a block, as the swizzle wants it
  static constexpr int INPUT_BYTES = ROWS * ROW_BYTES, WEIGHT_BYTES = 2 * COLS * ROW_BYTES;
  static constexpr int STAGE_BYTES = INPUT_BYTES + WEIGHT_BYTES;

  // The output leaves through shared memory in pieces of 64 rows: of 64 columns, swizzled, or of an odd
  // number of units of 8 columns, whose rows fall into different banks as they are.
  static constexpr bool SWIZZLED = COLS % 64 == 0;
  static constexpr int PIECE_COLS = SWIZZLED         ? 64
                                    : COLS % 32 == 0 ? COLS / 4
                                    : COLS % 16 == 0 ? COLS / 2
                                                     : COLS;
  static constexpr int PIECES = COLS / PIECE_COLS;
  static_assert(COLS % 8 == 0 && COLS <= 128 && (SWIZZLED || PIECE_COLS % 16 == 8), "no such tile");
  static constexpr int PIECE_BYTES = 64 * 2 * PIECE_COLS;
  static constexpr int OUTPUT_BYTES = PIECES * PIECE_BYTES; // of a warpgroup
  static constexpr int BIAS_BYTES = 2 * COLS * 4;           // of a warpgroup

  static constexpr int MOST_SHARED_BYTES = 227 << 10, BARRIER_BYTES = 256;
  static constexpr int OTHER_BYTES = WARPGROUPS * (OUTPUT_BYTES + BIAS_BYTES) + BARRIER_BYTES;
  static constexpr int STAGES_THAT_FIT = (MOST_SHARED_BYTES - OTHER_BYTES) / STAGE_BYTES;
  static constexpr int STAGES = STAGES_THAT_FIT < 8 ? STAGES_THAT_FIT : 8;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + OTHER_BYTES;
};

struct gated_linear_arguments {
  const void *bias; // [2 · cols]; NULL: none
  int cols;
  int depth_blocks;
  int row_tiles, col_tiles;
  int group; // rows of tiles that follow each other before the next column
  int lead;  // blocks of depth by which a warpgroup is ahead of the next; 0: none
  bool silu;
};

// Addresses in shared memory.
template <class SHAPE>
struct gated_linear_memory {
  uint32_t base;
  __device__ uint32_t input(int stage) const { return base + stage * SHAPE::STAGE_BYTES; }
  __device__ uint32_t weight(int stage) const { return input(stage) + SHAPE::INPUT_BYTES; }
  __device__ uint32_t output(int warpgroup) const {
    return base + SHAPE::STAGES * SHAPE::STAGE_BYTES + warpgroup * SHAPE::OUTPUT_BYTES;
  }
  __device__ uint32_t bias(int warpgroup) const {
    return output(SHAPE::WARPGROUPS) + warpgroup * SHAPE::BIAS_BYTES;
  }
  __device__ uint32_t full(int stage) const { return bias(SHAPE::WARPGROUPS) + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return full(SHAPE::STAGES + stage); }
};

// The first row and column of a tile.
struct gated_linear_tile {
  int row, col;
};

// Tiles of a group of rows follow each other column by column, so that those computed at the same time share
// their operands in the L2 cache.
template <class SHAPE>
__device__ gated_linear_tile locate_tile(const gated_linear_arguments &arguments, int index) {
  const int group_tiles = arguments.group * arguments.col_tiles;
  const int first_row = index / group_tiles * arguments.group, in_group = index % group_tiles;
  const int rows = min(arguments.group, arguments.row_tiles - first_row);
  return {(first_row + in_group % rows) * SHAPE::ROWS, in_group / rows * SHAPE::COLS};
}

// Runs body(index) over the tiles of a thread block.
template <class BODY>
__device__ __forceinline__ void for_each_tile(const gated_linear_arguments &arguments, BODY body) {
  const int tiles = arguments.row_tiles * arguments.col_tiles;
  for (int index = blockIdx.x; index < tiles; index += gridDim.x) body(index);
}

// The copying thread.
template <class SHAPE>
__device__ void gated_linear_produce(const CUtensorMap *input_map, const CUtensorMap *weight_map,
                                     const gated_linear_arguments &arguments,
                                     gated_linear_memory<SHAPE> memory) {
  ds_ring_place<SHAPE::STAGES> place;
  for_each_tile(arguments, [&](int index) {
    const gated_linear_tile tile = locate_tile<SHAPE>(arguments, index);
    for (int block = 0; block < arguments.depth_blocks; block++, place.advance()) {
      const int depth = block * SHAPE::DEPTH;
      const uint32_t full = memory.full(place.stage);
      ds_barrier_wait(memory.empty(place.stage), place.phase ^ 1);
      ds_barrier_expect_bytes(full, SHAPE::STAGE_BYTES);
      ds_tensor_copy_2d(memory.input(place.stage), input_map, depth, tile.row, full);
      ds_tensor_copy_3d(memory.weight(place.stage), weight_map, depth, tile.col, 0, full);
    }
  });
}

// Asks for the first stages of the weight, which the work ahead in the stream has most likely left alone, to
// be brought to the L2 cache: a hint, whatever that work does.
template <class SHAPE>
__device__ void prefetch_weight(const CUtensorMap *weight_map, const gated_linear_arguments &arguments) {
  const gated_linear_tile tile = locate_tile<SHAPE>(arguments, blockIdx.x);
  for (int block = 0; block < min(SHAPE::STAGES, arguments.depth_blocks); block++)
    ds_tensor_prefetch_3d(weight_map, block * SHAPE::DEPTH, tile.col, 0);
}

// What a computing warpgroup knows of itself.
template <class SHAPE>
struct gated_linear_warpgroup {
  gated_linear_memory<SHAPE> memory;
  int index, thread; // of the warpgroup, and within it
  ds_ring_place<SHAPE::STAGES> place;

  // Tells the copying thread that this warpgroup has read a stage.
  __device__ void release(int stage) const {
    if (thread == 0) ds_barrier_arrive(memory.empty(stage));
  }
  // Named barriers: one of each warpgroup's own, then one for each to wait for the lead of that before it.
  __device__ void synchronise() const { asm volatile("bar.sync %0, 128;" ::"r"(1 + index) : "memory"); }
  __device__ void wait_for_lead() const {
    asm volatile("bar.sync %0, 256;" ::"r"(SHAPE::WARPGROUPS + index) : "memory");
  }
  __device__ void announce_lead() const {
    asm volatile("bar.arrive %0, 256;" ::"r"(SHAPE::WARPGROUPS + index + 1) : "memory");
  }
};

// accumulators = input · weightᵀ for the warpgroup's 64 rows: COLS / 2 registers of values, then as many of
// gates. meanwhile() runs once under the first products.
template <typename T, class SHAPE, class MEANWHILE>
__device__ __forceinline__ void multiply(float (&accumulators)[SHAPE::COLS],
                                         gated_linear_warpgroup<SHAPE> &self,
                                         const gated_linear_arguments &arguments, MEANWHILE meanwhile) {
  const bool follows = arguments.lead > 0 && self.index > 0;
  const int announced = self.index + 1 < SHAPE::WARPGROUPS ? arguments.lead : 0;
  if (follows) self.wait_for_lead();
  int previous = 0;
  for (int block = 0; block < arguments.depth_blocks; block++) {
    const uint32_t rows = self.memory.input(self.place.stage) + self.index * 64 * SHAPE::ROW_BYTES;
    const uint64_t a = ds_wgmma_descriptor(rows);
    const uint64_t b = ds_wgmma_descriptor(self.memory.weight(self.place.stage));
    ds_barrier_wait(self.memory.full(self.place.stage), self.place.phase);
    ds_wgmma_fence();
#pragma unroll
    for (int step = 0; step < SHAPE::DEPTH / 16; step++)
      ds_wgmma_ss(accumulators, a + 2 * step, b + 2 * step, (block | step) != 0, T());
    ds_wgmma_commit();
    if (block == 0) {
      meanwhile();
    } else {
      ds_wgmma_wait<1>();
      self.release(previous);
      if (block == announced) self.announce_lead();
    }
    previous = self.place.stage;
    self.place.advance();
  }
  ds_wgmma_wait<0>();
  ds_wgmma_hold(accumulators);
  self.release(previous);
}

// One column's bias of each half.
template <typename T>
struct column_bias {
  T value, gate;
};

// The bias of a tile's columns in as many of the warpgroup's threads: asked for before the products and not
// looked at before they are done.
template <typename T, class SHAPE>
__device__ __forceinline__ column_bias<T> load_bias(const gated_linear_arguments &arguments, int first_col,
                                                    int thread) {
  const int col = first_col + thread;
  const bool inside = arguments.bias != NULL && thread < SHAPE::COLS && col < arguments.cols;
  const T *const values = static_cast<const T *>(arguments.bias), *const gates = values + arguments.cols;
  return {ds_load_if<T, 1>(inside, values + col).element, ds_load_if<T, 1>(inside, gates + col).element};
}

// Where 8 columns of a row, `unit` of the tile's, lie in the warpgroup's part of the output.
template <class SHAPE>
__device__ __forceinline__ uint32_t output_offset(int row, int unit) {
  constexpr int units = SHAPE::PIECE_COLS / 8;
  const int piece = unit / units, in_piece = unit % units;
  return piece * SHAPE::PIECE_BYTES + row * 2 * SHAPE::PIECE_COLS +
         (SHAPE::SWIZZLED ? in_piece ^ (row & 7) : in_piece) * 16;
}

// A thread's two columns of a unit and of the one to its right.
struct bias_pairs {
  float2 value[2], gate[2];
};

template <class SHAPE>
__device__ __forceinline__ bias_pairs load_biases(uint32_t thread_bias, int unit) {
  bias_pairs biases;
#pragma unroll
  for (int i = 0; i < 2 && unit + i < SHAPE::COLS / 8; i++) {
    biases.value[i] = ds_load_shared_pair(thread_bias + (unit + i) * 32);
    biases.gate[i] = ds_load_shared_pair(thread_bias + (unit + i) * 32 + SHAPE::COLS * 4);
  }
  return biases;
}

// Computes the outputs of a thread and writes them, rounded, to shared memory: `output` is the warpgroup's
// part, `bias` its values' COLS biases and then the gates'.
template <typename T, class SHAPE, class ACTIVATION>
__device__ __forceinline__ void activate(const float (&accumulators)[SHAPE::COLS], uint32_t output,
                                         uint32_t bias, int thread, ACTIVATION activation) {
  constexpr int units = SHAPE::COLS / 8; // of 8 columns, 4 registers of a thread
  const int lane = thread % 32;
  const uint32_t thread_bias = bias + lane % 4 * 8;
  // A matrix of 8 rows by 8 columns takes its rows' addresses from 8 lanes: two matrices one below the other,
  // then two to their right.
  const int row = thread / 32 * 16 + lane % 16;
  bias_pairs next = load_biases<SHAPE>(thread_bias, 0);
#pragma unroll
  for (int unit = 0; unit < units; unit += 2) {
    // Asked for before the stores of this round, which the compiler would not move them across.
    const bias_pairs biases = next;
    if (unit + 2 < units) next = load_biases<SHAPE>(thread_bias, unit + 2);
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 2 && unit + i < units; i++) {
      const float *const values = accumulators + 4 * (unit + i), *const gates = values + SHAPE::COLS / 2;
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const float pair[2] = {
            (values[2 * r] + biases.value[i].x) * activation(gates[2 * r] + biases.gate[i].x),
            (values[2 * r + 1] + biases.value[i].y) * activation(gates[2 * r + 1] + biases.gate[i].y)};
        words[2 * i + r] = ds_pack_word(pair, static_cast<const T *>(NULL));
      }
    }
    if (unit + 1 < units) {
      const uint32_t left = output_offset<SHAPE>(row, unit), right = output_offset<SHAPE>(row, unit + 1);
      ds_store_4_matrices(output + (lane < 16 ? left : right), words);
    } else {
      ds_store_2_matrices(output + output_offset<SHAPE>(row, unit), words);
    }
  }
}

// The outputs of one tile, from accumulators to memory. The copy engine leaves out what lies past the
// output's ends.
template <typename T, class SHAPE>
__device__ __forceinline__ void
finish_tile(const float (&accumulators)[SHAPE::COLS], const gated_linear_warpgroup<SHAPE> &self,
            const CUtensorMap *output_map, const gated_linear_arguments &arguments, gated_linear_tile tile,
            column_bias<T> bias) {
  const uint32_t output = self.memory.output(self.index), biases = self.memory.bias(self.index);
  if (self.thread < SHAPE::COLS) {
    ds_store_shared(biases + self.thread * 4, ds_to_float(bias.value));
    ds_store_shared(biases + (SHAPE::COLS + self.thread) * 4, ds_to_float(bias.gate));
  }
  if (self.thread == 0) ds_tensor_store_wait_read(); // the last tile has left shared memory
  self.synchronise();
  if (arguments.silu)
    activate<T, SHAPE>(accumulators, output, biases, self.thread, [](float x) { return ds_silu_fast(x); });
  else
    activate<T, SHAPE>(accumulators, output, biases, self.thread, [](float x) { return ds_gelu_fast(x); });
  ds_tensor_store_fence();
  self.synchronise();
  if (self.thread == 0) {
#pragma unroll
    for (int piece = 0; piece < SHAPE::PIECES; piece++)
      ds_tensor_store_2d(output_map, tile.col + piece * SHAPE::PIECE_COLS, tile.row + self.index * 64,
                         output + piece * SHAPE::PIECE_BYTES);
    ds_tensor_store_commit();
  }
}

template <typename T, class SHAPE>
__device__ void gated_linear_compute(gated_linear_warpgroup<SHAPE> &self, const CUtensorMap *output_map,
                                     const gated_linear_arguments &arguments) {
  float accumulators[SHAPE::COLS];
  for_each_tile(arguments, [&](int index) {
    gated_linear_tile tile;
    column_bias<T> bias;
    multiply<T, SHAPE>(accumulators, self, arguments, [&] {
      tile = locate_tile<SHAPE>(arguments, index);
      bias = load_bias<T, SHAPE>(arguments, tile.col, self.thread);
    });
    finish_tile<T, SHAPE>(accumulators, self, output_map, arguments, tile, bias);
  });
  if (self.thread == 0) ds_tensor_store_wait();
}

template <typename T, class SHAPE>
__global__ void __launch_bounds__(SHAPE::THREADS, 1)
    gated_linear_kernel(const __grid_constant__ CUtensorMap input_map,
                        const __grid_constant__ CUtensorMap weight_map,
                        const __grid_constant__ CUtensorMap output_map,
                        const gated_linear_arguments arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  // The swizzle repeats every 1,024 bytes, so that is how the stages must be aligned.
  extern __shared__ __align__(1024) uint8_t shared[];
  const gated_linear_memory<SHAPE> memory = {ds_shared_address(shared)};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < SHAPE::STAGES; stage++) {
      ds_barrier_init(memory.full(stage), 1);
      ds_barrier_init(memory.empty(stage), SHAPE::WARPGROUPS);
    }
    ds_barrier_init_fence();
    prefetch_weight<SHAPE>(&weight_map, arguments);
  }
  __syncthreads();
  ds_wait_for_stream();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(SHAPE::COPYING_REGISTERS));
    if (threadIdx.x == 0) gated_linear_produce<SHAPE>(&input_map, &weight_map, arguments, memory);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(SHAPE::COMPUTING_REGISTERS));
    gated_linear_warpgroup<SHAPE> self = {memory, (int)threadIdx.x / 128 - 1, (int)threadIdx.x % 128};
    gated_linear_compute<T, SHAPE>(self, &output_map, arguments);
  }
#endif
}

} // namespace

#endif
