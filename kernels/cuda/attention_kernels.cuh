// Attention on Hopper: one pass over the keys with a running softmax, products on the warpgroup matrix units,
// operands through the tensor copy engine straight from the projections' strided result.
//
// Method: FlashAttention (Dao et al., 2022; Shah et al., FlashAttention-3, 2024): the product of the next
// block's scores is issued before this block's P·V, so that one block's softmax runs while the other's
// product does; two warpgroups take turns.
//
// Only Hopper's own target (sm_90a) has these instructions: for any other the kernels are empty, and must not
// be launched.
#ifndef DS_ATTENTION_KERNELS_CUH
#define DS_ATTENTION_KERNELS_CUH

#include "ds_cuda_stream_order.cuh"
#include "ds_fast_math.cuh"
#include "ds_tensor_copy.cuh"
#include "ds_wgmma.cuh"
#include <cuda_runtime.h>
#include <math.h>

namespace {

constexpr int CHUNK = 64;      // columns of a 128-byte row in shared memory
constexpr int ROW_BYTES = 128; // of such a row

// HEAD columns lie in chunks of 64; what the last chunk has beyond HEAD the copy engine fills with zeros.
template <int HEAD, int WARPGROUPS, bool SHORT>
struct attention_shape {
  static constexpr int CHUNKS = (HEAD + CHUNK - 1) / CHUNK;
  static constexpr int LAST = HEAD - (CHUNKS - 1) * CHUNK; // columns of the last chunk
  static constexpr int LAST_STEPS = (LAST + 15) / 16;      // steps of 16 columns in its score product
  static constexpr int QUERIES = 64 * WARPGROUPS;
  // Keys of a block. Text contexts of up to 80 tokens are one block; otherwise as many as leave room for the
  // pipeline.
  static constexpr int KEYS = SHORT ? 80 : HEAD > 128 ? 64 : 128;
  static constexpr int STAGES = SHORT ? (CHUNKS == 1 ? 2 : 1) : CHUNKS == 1 ? 3 : 2;
  // With one block of keys there is nothing to overlap within a tile: other thread blocks on the
  // multiprocessor do.
  static constexpr int BLOCKS = !SHORT ? 1 : HEAD <= 80 ? 3 : 2;
  static constexpr int REGISTERS = BLOCKS == 3 ? 136 : BLOCKS == 2 ? 216 : 240; // of a computing thread
  static constexpr int QUERY_CHUNK_BYTES = QUERIES * ROW_BYTES;
  static constexpr int KEY_CHUNK_BYTES = KEYS * ROW_BYTES;
  static constexpr int QUERY_BYTES = CHUNKS * QUERY_CHUNK_BYTES;
  static constexpr int KEY_BYTES = CHUNKS * KEY_CHUNK_BYTES;
  static constexpr int QUERY_TILES =
      SHORT ? 2 : 1; // a tile of one block is over before its successor is there
  static constexpr int BARRIERS = 2 * QUERY_TILES + 4 * STAGES;
  static constexpr int SHARED_BYTES =
      QUERY_TILES * QUERY_BYTES + STAGES * 2 * KEY_BYTES + 8 * BARRIERS + 1024;
  static constexpr int THREADS = 128 * (1 + WARPGROUPS);
};

__device__ __forceinline__ uint32_t pack_pair(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&pair);
}
__device__ __forceinline__ uint32_t pack_pair(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&pair);
}

struct attention_arguments {
  void *output; // [batch, query_tokens, heads, head_size], contiguous
  int query_tokens, key_tokens, heads, query_blocks, tiles;
  float scale; // log2(e) / sqrt(head_size)
};

// Barriers, in shared memory: query tiles full and empty, then for each stage keys full, keys empty, values
// full, values empty.
template <class SHAPE>
struct barrier_set {
  uint32_t base;
  __device__ uint32_t at(int index) const { return base + 8 * index; }
  __device__ uint32_t query_full(int tile) const { return at(tile); }
  __device__ uint32_t query_empty(int tile) const { return at(SHAPE::QUERY_TILES + tile); }
  __device__ uint32_t key_full(int stage) const { return at(2 * SHAPE::QUERY_TILES + stage); }
  __device__ uint32_t key_empty(int stage) const {
    return at(2 * SHAPE::QUERY_TILES + SHAPE::STAGES + stage);
  }
  __device__ uint32_t value_full(int stage) const {
    return at(2 * SHAPE::QUERY_TILES + 2 * SHAPE::STAGES + stage);
  }
  __device__ uint32_t value_empty(int stage) const {
    return at(2 * SHAPE::QUERY_TILES + 3 * SHAPE::STAGES + stage);
  }
};

template <class SHAPE>
__device__ void load_tile(const CUtensorMap *map, uint32_t destination, int chunk_bytes, int head, int token,
                          int batch, uint32_t barrier) {
  ds_barrier_expect_bytes(barrier, SHAPE::CHUNKS * chunk_bytes);
#pragma unroll
  for (int chunk = 0; chunk < SHAPE::CHUNKS; chunk++)
    ds_tensor_copy_4d(destination + chunk * chunk_bytes, map, chunk * CHUNK, head, token, batch, barrier);
}

// The copying thread: queries of each tile, then its keys and values block by block, as room becomes free.
template <class SHAPE>
__device__ void produce(const CUtensorMap *query_map, const CUtensorMap *key_map,
                        const CUtensorMap *value_map, const attention_arguments &arguments, uint32_t queries,
                        uint32_t ring, barrier_set<SHAPE> barriers) {
  const int blocks = (arguments.key_tokens + SHAPE::KEYS - 1) / SHAPE::KEYS;
  ds_ring_place<SHAPE::STAGES> place;
  ds_ring_place<SHAPE::QUERY_TILES> query_place;
  for (int tile = blockIdx.x; tile < arguments.tiles; tile += gridDim.x, query_place.advance()) {
    const int query_block = tile % arguments.query_blocks,
              head = tile / arguments.query_blocks % arguments.heads;
    const int batch = tile / arguments.query_blocks / arguments.heads;
    ds_barrier_wait(barriers.query_empty(query_place.stage), query_place.phase ^ 1);
    load_tile<SHAPE>(query_map, queries + query_place.stage * SHAPE::QUERY_BYTES, SHAPE::QUERY_CHUNK_BYTES,
                     head, query_block * SHAPE::QUERIES, batch, barriers.query_full(query_place.stage));
    for (int block = 0; block < blocks; block++, place.advance()) {
      const uint32_t keys = ring + place.stage * 2 * SHAPE::KEY_BYTES;
      ds_barrier_wait(barriers.key_empty(place.stage), place.phase ^ 1);
      load_tile<SHAPE>(key_map, keys, SHAPE::KEY_CHUNK_BYTES, head, block * SHAPE::KEYS, batch,
                       barriers.key_full(place.stage));
      ds_barrier_wait(barriers.value_empty(place.stage), place.phase ^ 1);
      load_tile<SHAPE>(value_map, keys + SHAPE::KEY_BYTES, SHAPE::KEY_CHUNK_BYTES, head, block * SHAPE::KEYS,
                       batch, barriers.value_full(place.stage));
    }
  }
}

// Issues scores = queries · keysᵀ for one warpgroup's 64 queries.
template <typename T, class SHAPE>
__device__ __forceinline__ void issue_scores(float (&scores)[SHAPE::KEYS / 2], uint32_t queries,
                                             uint32_t keys) {
  ds_wgmma_fence();
#pragma unroll
  for (int chunk = 0; chunk < SHAPE::CHUNKS; chunk++) {
    const uint64_t a = ds_wgmma_descriptor(queries + chunk * SHAPE::QUERY_CHUNK_BYTES);
    const uint64_t b = ds_wgmma_descriptor(keys + chunk * SHAPE::KEY_CHUNK_BYTES);
#pragma unroll
    for (int step = 0; step < (chunk + 1 < SHAPE::CHUNKS ? 4 : SHAPE::LAST_STEPS); step++)
      ds_wgmma_ss(scores, a + 2 * step, b + 2 * step, (chunk | step) != 0, T());
  }
  ds_wgmma_commit();
}

// The output's accumulators: full chunks of 64 columns, and the last one.
template <class SHAPE>
struct output_tile {
  float full[SHAPE::CHUNKS > 1 ? SHAPE::CHUNKS - 1 : 1][32];
  float last[SHAPE::LAST / 2];
};

// Issues output (+)= probabilities · values.
template <typename T, class SHAPE>
__device__ __forceinline__ void issue_output(output_tile<SHAPE> &output,
                                             const uint32_t (&probabilities)[SHAPE::KEYS / 16][4],
                                             uint32_t values, int accumulate) {
  ds_wgmma_fence();
#pragma unroll
  for (int step = 0; step < SHAPE::KEYS / 16; step++) {
    const uint32_t rows = values + step * 16 * ROW_BYTES;
#pragma unroll
    for (int chunk = 0; chunk + 1 < SHAPE::CHUNKS; chunk++)
      ds_wgmma_rs(output.full[chunk], probabilities[step],
                  ds_wgmma_descriptor(rows + chunk * SHAPE::KEY_CHUNK_BYTES), accumulate | (step != 0), T());
    ds_wgmma_rs(output.last, probabilities[step],
                ds_wgmma_descriptor(rows + (SHAPE::CHUNKS - 1) * SHAPE::KEY_CHUNK_BYTES),
                accumulate | (step != 0), T());
  }
  ds_wgmma_commit();
}

template <class SHAPE>
__device__ __forceinline__ void hold_output(output_tile<SHAPE> &output) {
#pragma unroll
  for (int chunk = 0; chunk + 1 < SHAPE::CHUNKS; chunk++) ds_wgmma_hold(output.full[chunk]);
  ds_wgmma_hold(output.last);
}

template <class SHAPE>
__device__ __forceinline__ void rescale_output(output_tile<SHAPE> &output, const float (&factor)[2]) {
#pragma unroll
  for (int chunk = 0; chunk + 1 < SHAPE::CHUNKS; chunk++)
#pragma unroll
    for (int i = 0; i < 32; i++) output.full[chunk][i] *= factor[i >> 1 & 1];
#pragma unroll
  for (int i = 0; i < SHAPE::LAST / 2; i++) output.last[i] *= factor[i >> 1 & 1];
}

// The running softmax of a thread's two rows.
struct softmax_state {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.f, 0.f}; // over this thread's columns only
  float rescale[2];          // factor for what was summed before the last block
};

// Scores become exp2(scale · (score - maximum)).
template <int COUNT>
__device__ __forceinline__ void softmax_block(float (&scores)[COUNT], softmax_state &state, float scale) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float maximum = state.maximum[r];
#pragma unroll
    for (int i = 0; i < COUNT; i += 4)
      maximum = fmaxf(maximum, fmaxf(scores[i + 2 * r], scores[i + 2 * r + 1]));
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
    state.rescale[r] = ds_exp2_fast((state.maximum[r] - maximum) * scale);
    state.maximum[r] = maximum;
    const float shift = maximum * scale;
    float even = 0.f, odd = 0.f;
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      float &first = scores[i + 2 * r], &second = scores[i + 2 * r + 1];
      first = ds_exp2_fast(fmaf(first, scale, -shift));
      second = ds_exp2_fast(fmaf(second, scale, -shift));
      even += first;
      odd += second;
    }
    state.sum[r] = fmaf(state.sum[r], state.rescale[r], even + odd);
  }
}

// Scores of keys past the end are zeros that the copy engine filled in: they must not count.
template <int COUNT>
__device__ __forceinline__ void mask_tail(float (&scores)[COUNT], int keys) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    if (i / 4 * 8 + column + (i & 1) >= keys) scores[i] = -INFINITY;
}

template <typename T, int COUNT>
__device__ __forceinline__ void pack_probabilities(uint32_t (&packed)[COUNT / 8][4],
                                                   const float (&scores)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      packed[i][j] = pack_pair(scores[8 * i + 2 * j], scores[8 * i + 2 * j + 1], T());
}

template <typename T, int COUNT>
__device__ __forceinline__ void store_columns(T *row, const float (&accumulators)[COUNT], int r,
                                              float factor) {
#pragma unroll
  for (int i = 0; i < COUNT; i += 4)
    *reinterpret_cast<uint32_t *>(row + 2 * i) =
        pack_pair(accumulators[i + 2 * r] * factor, accumulators[i + 2 * r + 1] * factor, T());
}

template <typename T, int HEAD, class SHAPE>
__device__ void store_output(const output_tile<SHAPE> &output, softmax_state state,
                             const attention_arguments &arguments, int tile, int warpgroup) {
  const int query_block = tile % arguments.query_blocks,
            head = tile / arguments.query_blocks % arguments.heads;
  const int batch = tile / arguments.query_blocks / arguments.heads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    state.sum[r] += __shfl_xor_sync(~0u, state.sum[r], 1);
    state.sum[r] += __shfl_xor_sync(~0u, state.sum[r], 2);
    const int token = query_block * SHAPE::QUERIES + warpgroup * 64 + warp * 16 + r * 8 + lane / 4;
    if (token >= arguments.query_tokens) continue;
    const float factor = 1.f / state.sum[r];
    T *row =
        static_cast<T *>(arguments.output) +
        ((static_cast<int64_t>(batch) * arguments.query_tokens + token) * arguments.heads + head) * HEAD +
        lane % 4 * 2;
#pragma unroll
    for (int chunk = 0; chunk + 1 < SHAPE::CHUNKS; chunk++)
      store_columns(row + chunk * CHUNK, output.full[chunk], r, factor);
    store_columns(row + (SHAPE::CHUNKS - 1) * CHUNK, output.last, r, factor);
  }
}

// Named barriers 2 and 3: the turn of warpgroup 0 and of warpgroup 1 to issue products.
__device__ __forceinline__ void take_turn(int warpgroup) {
  asm volatile("bar.sync %0, 256;" ::"r"(2 + warpgroup) : "memory");
}
__device__ __forceinline__ void pass_turn(int warpgroup) {
  asm volatile("bar.arrive %0, 256;" ::"r"(3 - warpgroup) : "memory");
}

// What a computing warpgroup has in shared memory and registers.
template <class SHAPE>
struct compute_state {
  uint32_t queries; // this warpgroup's 64 rows of the first query tile
  uint32_t ring;    // stages of keys and values
  barrier_set<SHAPE> barriers;
  int warpgroup;
  bool leader; // the thread that tells the copying thread what is free
  int blocks;  // of keys
  int tail;    // keys of the last block
  ds_ring_place<SHAPE::STAGES> place;
  ds_ring_place<SHAPE::QUERY_TILES> query_place;
  float scores[SHAPE::KEYS / 2];
  uint32_t probabilities[SHAPE::KEYS / 16][4];
  output_tile<SHAPE> output;

  __device__ uint32_t tile_queries() const { return queries + query_place.stage * SHAPE::QUERY_BYTES; }
  __device__ uint32_t keys() const { return ring + place.stage * 2 * SHAPE::KEY_BYTES; }
  __device__ uint32_t values() const { return keys() + SHAPE::KEY_BYTES; }
  __device__ void release(uint32_t barrier) const {
    if (leader) ds_barrier_arrive(barrier);
  }
  __device__ void wait_for_keys() const { ds_barrier_wait(barriers.key_full(place.stage), place.phase); }
  __device__ void wait_for_queries() const {
    ds_barrier_wait(barriers.query_full(query_place.stage), query_place.phase);
  }
};

// Tiles of several blocks of keys, one after the other.
template <typename T, int HEAD, class SHAPE>
__device__ void compute_long(compute_state<SHAPE> &self, const attention_arguments &arguments) {
  constexpr bool turns = SHAPE::QUERIES == 128;
  if (turns && self.warpgroup == 1) pass_turn(1);
  for (int tile = blockIdx.x; tile < arguments.tiles; tile += gridDim.x, self.query_place.advance()) {
    softmax_state state;
    self.wait_for_queries();
    self.wait_for_keys();
    issue_scores<T, SHAPE>(self.scores, self.tile_queries(), self.keys());
    ds_wgmma_wait<0>();
    ds_wgmma_hold(self.scores);
    self.release(self.barriers.key_empty(self.place.stage));
    if (self.blocks == 1 && self.tail < SHAPE::KEYS) mask_tail(self.scores, self.tail);
    softmax_block(self.scores, state, arguments.scale);
    pack_probabilities<T>(self.probabilities, self.scores);
    for (int block = 1; block < self.blocks; block++) {
      const ds_ring_place<SHAPE::STAGES> before = self.place;
      const uint32_t values = self.values();
      self.place.advance();
      self.wait_for_keys();
      if (turns) take_turn(self.warpgroup);
      issue_scores<T, SHAPE>(self.scores, self.tile_queries(), self.keys());
      ds_barrier_wait(self.barriers.value_full(before.stage), before.phase);
      issue_output<T, SHAPE>(self.output, self.probabilities, values, block > 1);
      if (turns) pass_turn(self.warpgroup);
      ds_wgmma_wait<1>();
      ds_wgmma_hold(self.scores);
      self.release(self.barriers.key_empty(self.place.stage));
      if (block + 1 == self.blocks && self.tail < SHAPE::KEYS) mask_tail(self.scores, self.tail);
      softmax_block(self.scores, state, arguments.scale);
      ds_wgmma_wait<0>();
      hold_output(self.output);
      self.release(self.barriers.value_empty(before.stage));
      rescale_output(self.output, state.rescale);
      pack_probabilities<T>(self.probabilities, self.scores);
    }
    self.release(self.barriers.query_empty(self.query_place.stage));
    ds_barrier_wait(self.barriers.value_full(self.place.stage), self.place.phase);
    issue_output<T, SHAPE>(self.output, self.probabilities, self.values(), self.blocks > 1);
    ds_wgmma_wait<0>();
    hold_output(self.output);
    self.release(self.barriers.value_empty(self.place.stage));
    self.place.advance();
    store_output<T, HEAD>(self.output, state, arguments, tile, self.warpgroup);
  }
}

// Tiles of a single block of keys: the scores of the next tile are computed while the values of this one are.
template <typename T, int HEAD, class SHAPE>
__device__ void compute_short(compute_state<SHAPE> &self, const attention_arguments &arguments) {
  const auto finish_scores = [&](softmax_state &state) {
    ds_wgmma_hold(self.scores);
    self.release(self.barriers.key_empty(self.place.stage));
    self.release(self.barriers.query_empty(self.query_place.stage));
    if (self.tail < SHAPE::KEYS) mask_tail(self.scores, self.tail);
    softmax_block(self.scores, state, arguments.scale);
  };
  softmax_state state;
  self.wait_for_queries();
  self.wait_for_keys();
  issue_scores<T, SHAPE>(self.scores, self.tile_queries(), self.keys());
  ds_wgmma_wait<0>();
  finish_scores(state);
  pack_probabilities<T>(self.probabilities, self.scores);
  int tile = blockIdx.x;
  for (; tile + (int)gridDim.x < arguments.tiles; tile += gridDim.x) {
    const ds_ring_place<SHAPE::STAGES> before = self.place;
    const uint32_t values = self.values();
    softmax_state next;
    self.place.advance();
    self.query_place.advance();
    self.wait_for_queries();
    self.wait_for_keys();
    issue_scores<T, SHAPE>(self.scores, self.tile_queries(), self.keys());
    ds_barrier_wait(self.barriers.value_full(before.stage), before.phase);
    issue_output<T, SHAPE>(self.output, self.probabilities, values, 0);
    ds_wgmma_wait<1>();
    finish_scores(next);
    ds_wgmma_wait<0>();
    hold_output(self.output);
    self.release(self.barriers.value_empty(before.stage));
    store_output<T, HEAD>(self.output, state, arguments, tile, self.warpgroup);
    pack_probabilities<T>(self.probabilities, self.scores);
    state = next;
  }
  ds_barrier_wait(self.barriers.value_full(self.place.stage), self.place.phase);
  issue_output<T, SHAPE>(self.output, self.probabilities, self.values(), 0);
  ds_wgmma_wait<0>();
  hold_output(self.output);
  store_output<T, HEAD>(self.output, state, arguments, tile, self.warpgroup);
}

template <typename T, int HEAD, int WARPGROUPS, bool SHORT>
__global__ void __launch_bounds__(128 * (1 + WARPGROUPS), (attention_shape<HEAD, WARPGROUPS, SHORT>::BLOCKS))
    attention_kernel(const __grid_constant__ CUtensorMap query_map,
                     const __grid_constant__ CUtensorMap key_map,
                     const __grid_constant__ CUtensorMap value_map, const attention_arguments arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using shape = attention_shape<HEAD, WARPGROUPS, SHORT>;
  extern __shared__ uint8_t shared[];
  // The swizzle repeats every 1,024 bytes, so that is how the tiles must be aligned.
  const uint32_t queries = (ds_shared_address(shared) + 1023) & ~1023u;
  const uint32_t ring = queries + shape::QUERY_TILES * shape::QUERY_BYTES;
  const barrier_set<shape> barriers = {ring + shape::STAGES * 2 * shape::KEY_BYTES};
  if (threadIdx.x == 0) {
    ds_tensor_map_prefetch(&query_map);
    ds_tensor_map_prefetch(&key_map);
    ds_tensor_map_prefetch(&value_map);
    for (int i = 0; i < shape::QUERY_TILES; i++) {
      ds_barrier_init(barriers.query_full(i), 1);
      ds_barrier_init(barriers.query_empty(i), WARPGROUPS);
    }
    for (int i = 0; i < shape::STAGES; i++) {
      ds_barrier_init(barriers.key_full(i), 1);
      ds_barrier_init(barriers.value_full(i), 1);
      ds_barrier_init(barriers.key_empty(i), WARPGROUPS);
      ds_barrier_init(barriers.value_empty(i), WARPGROUPS);
    }
    ds_barrier_init_fence();
  }
  __syncthreads();
  ds_wait_for_stream();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0)
      produce<shape>(&query_map, &key_map, &value_map, arguments, queries, ring, barriers);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(shape::REGISTERS));
    compute_state<shape> self;
    self.warpgroup = threadIdx.x / 128 - 1;
    self.queries = queries + self.warpgroup * 64 * ROW_BYTES;
    self.ring = ring;
    self.barriers = barriers;
    self.leader = threadIdx.x % 128 == 0;
    self.blocks = (arguments.key_tokens + shape::KEYS - 1) / shape::KEYS;
    self.tail = arguments.key_tokens - (self.blocks - 1) * shape::KEYS;
    if (SHORT)
      compute_short<T, HEAD>(self, arguments);
    else
      compute_long<T, HEAD>(self, arguments);
  }
#endif
}

} // namespace

#endif
