// What launchers share: the launch itself, the choice of access width, and the shape of grids over rows.
#ifndef DS_CUDA_LAUNCH_CUH
#define DS_CUDA_LAUNCH_CUH

#include "ds_cuda_device.h"
#include "ds_cuda_elements.cuh"
#include "ds_cuda_stream_order.cuh"
#include <atomic>
#include <stdint.h>
#include <stdio.h>

static inline ds_status ds_launch_error(const char *op, cudaError_t error) {
  char what[64];
  snprintf(what, sizeof what, "the launch of %s", op);
  return ds_cuda_error(what, error);
}

template <typename... Parameters, typename... Arguments>
ds_status ds_launch_configured(const char *op, void (*kernel)(Parameters...), cudaLaunchConfig_t config,
                               const Arguments &...arguments) {
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  return error == cudaSuccess ? DS_OK : ds_launch_error(op, error);
}

// Launches a kernel that starts when all work ahead in the stream has ended.
template <typename... Parameters, typename... Arguments>
ds_status ds_launch(const char *op, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                    void *stream, const Arguments &...arguments) {
  cudaLaunchConfig_t config = {grid, block, shared_bytes, static_cast<cudaStream_t>(stream), NULL, 0};
  return ds_launch_configured(op, kernel, config, arguments...);
}

// Launches a kernel that may start sooner, as it calls ds_wait_for_stream. What counts is the code that was
// loaded, not the device: code for an older one does not wait.
template <typename... Parameters, typename... Arguments>
ds_status ds_launch_early(const char *op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                          size_t shared_bytes, void *stream, const Arguments &...arguments) {
  ds_cuda_device device;
  DS_CHECK(ds_cuda_current_device(&device));
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  const bool waits = DS_CUDA_EARLY_LAUNCH != 0 && device.code >= DS_CUDA_CODE_90;
  cudaLaunchConfig_t config = {grid,   block,          shared_bytes, static_cast<cudaStream_t>(stream),
                               &early, waits ? 1u : 0u};
  return ds_launch_configured(op, kernel, config, arguments...);
}

// A block gets more than 48 KB, static shared memory included, only after the kernel was allowed to ask for
// it: KERNEL may have up to MOST_BYTES from here on.
template <auto KERNEL, size_t MOST_BYTES>
ds_status ds_allow_shared_bytes(const char *op, const ds_cuda_device &device) {
  static std::atomic<bool> allowed[DS_CUDA_MAX_DEVICES];
  const bool has_place = device.index < DS_CUDA_MAX_DEVICES;
  if (has_place && allowed[device.index].load(std::memory_order_relaxed)) return DS_OK;
  const cudaError_t error =
      cudaFuncSetAttribute(KERNEL, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)MOST_BYTES);
  if (error != cudaSuccess) return ds_launch_error(op, error);
  if (has_place) allowed[device.index].store(true, std::memory_order_relaxed);
  return DS_OK;
}

static inline int64_t ds_min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static inline int64_t ds_ceil_div(int64_t dividend, int64_t divisor) {
  return dividend / divisor + (dividend % divisor != 0);
}

// What a kernel's blocks cover: blockIdx.x counts in rows, blockIdx.y in columns.
struct ds_blocks {
  int64_t rows;
  int64_t cols;
  int64_t block_rows;
  int64_t block_cols;
  dim3 block;
  size_t shared_bytes;
};

// The row and the column at which the blocks of a launch begin.
struct ds_origin {
  int64_t row;
  int64_t col;
};

// Calls launch(grid, origin), more than once only where the hardware's limits of blocks require it. So
// kernels need no loop over rows: what does not depend on the row would be moved out of such a loop, into
// more registers than there are.
template <typename Launch>
ds_status ds_for_each_grid(const ds_blocks &blocks, Launch launch) {
  constexpr int64_t most_x = INT32_MAX, most_y = 65535;
  const int64_t x = ds_ceil_div(blocks.rows, blocks.block_rows),
                y = ds_ceil_div(blocks.cols, blocks.block_cols);
  for (int64_t first_x = 0; first_x < x; first_x += most_x)
    for (int64_t first_y = 0; first_y < y; first_y += most_y) {
      const dim3 grid((unsigned)ds_min(x - first_x, most_x), (unsigned)ds_min(y - first_y, most_y));
      DS_CHECK(launch(grid, ds_origin{first_x * blocks.block_rows, first_y * blocks.block_cols}));
    }
  return DS_OK;
}

// Launches kernel(params, origin) for all blocks, by ds_launch_early.
template <typename Params>
ds_status ds_launch_blocks_early(const char *op, void (*kernel)(Params, ds_origin), const ds_blocks &blocks,
                                 void *stream, const Params &params) {
  return ds_for_each_grid(blocks, [&](dim3 grid, ds_origin origin) {
    return ds_launch_early(op, kernel, grid, blocks.block, blocks.shared_bytes, stream, params, origin);
  });
}

// Whether accesses of DS_VECTOR_BYTES may start here. An absent operand never stands in the way.
static inline bool ds_is_aligned(const void *address) {
  return (uintptr_t)address % DS_VECTOR_BYTES == 0;
}
static inline bool ds_is_aligned(const ds_rows &view, size_t element_bytes) {
  if (view.data == NULL) return true;
  if (view.col_stride != 1 || !ds_is_aligned(view.data)) return false;
  for (int32_t i = 0; i < view.dims; i++)
    if (view.strides[i] * (int64_t)element_bytes % DS_VECTOR_BYTES != 0) return false;
  return true;
}

// Whether neighbouring rows lie closer together than neighbouring columns, so that a warp should run over
// rows: an NCHW-contiguous tensor seen as [pixels, channels].
__host__ __device__ static inline bool ds_rows_are_closer(const ds_rows &view) {
  return view.data != NULL && view.col_stride > 1 && view.strides[view.dims - 1] < view.col_stride;
}

// Blocks for kernels that work on each element alone: threads are block.x columns wide and block.y rows high,
// and each takes `items` accesses in its row, block.x accesses apart. No powers of two: a row of 40 accesses
// has 20 threads, not 32 of which some idle.
static inline ds_blocks ds_plan_element_blocks(int64_t rows, int64_t cols, int width, int items) {
  constexpr int64_t block_threads = 256;
  const int64_t threads = ds_ceil_div(ds_ceil_div(cols, width), items);
  const int64_t x = ds_ceil_div(threads, ds_ceil_div(threads, block_threads)), y = block_threads / x;
  return {rows, cols, y, x * width * items, dim3((unsigned)x, (unsigned)y), 0};
}

#endif
