// How launchers describe tensors of 16-bit and of int8 elements to Hopper's copy engine.
#ifndef DS_TENSOR_MAP_CUH
#define DS_TENSOR_MAP_CUH

#include "ds_dtype.h"
#include "ds_status.h"
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

using ds_encode_tiled_fn = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found without linking the driver; NULL where it is too old to have it.
inline ds_encode_tiled_fn ds_encode_tiled() {
  static const ds_encode_tiled_fn function = [] {
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                         &result) != cudaSuccess)
      found = nullptr;
    return reinterpret_cast<ds_encode_tiled_fn>(found);
  }();
  return function;
}

// Whether the copy engine takes a tensor's sizes and strides, in elements of 16 bits: coordinates of 32 bits;
// strides in units of 16 bytes and below 2^40 bytes.
inline bool ds_can_map_size(int64_t size) {
  return size >= 1 && size <= INT32_MAX / 2;
}
inline bool ds_can_map_stride(int64_t stride) {
  constexpr int64_t unit = 8, most = ((int64_t)1 << 39) - 1;
  return stride > 0 && stride <= most && stride % unit == 0;
}

// Whether it takes the halves of a matrix, of `rows` rows each, as a dimension of their own.
inline bool ds_can_map_halves(int64_t rows, int64_t row_stride) {
  int64_t stride;
  return !__builtin_mul_overflow(rows, row_stride, &stride) && ds_can_map_stride(stride);
}

// A tensor and the box of it that is copied at once; dimensions innermost first, the first one contiguous.
template <int DIMS>
struct ds_tensor_box {
  int64_t sizes[DIMS];
  int64_t strides[DIMS - 1]; // in elements, of the dimensions from the second on
  int box[DIMS];
};

// DS_FLOAT16, DS_BFLOAT16 or DS_INT8. `swizzled` boxes have 128 bytes in the first dimension. The copy engine
// must take sizes and strides, and `data` be aligned to 16 bytes.
template <int DIMS>
ds_status ds_make_tensor_map(const char *op, CUtensorMap *map, ds_dtype dtype, const void *data,
                             const ds_tensor_box<DIMS> &tensor, bool swizzled = true) {
  const CUtensorMapDataType type = dtype == DS_INT8      ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : dtype == DS_FLOAT16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                         : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const cuuint64_t element_bytes = dtype == DS_INT8 ? 1 : 2;
  cuuint64_t sizes[DIMS], stride_bytes[DIMS];
  cuuint32_t box[DIMS], steps[DIMS];
  for (int i = 0; i < DIMS; i++) {
    sizes[i] = (cuuint64_t)tensor.sizes[i];
    if (i > 0) stride_bytes[i - 1] = (cuuint64_t)tensor.strides[i - 1] * element_bytes;
    box[i] = (cuuint32_t)tensor.box[i];
    steps[i] = 1;
  }
  const CUresult result = ds_encode_tiled()(
      map, type, DIMS, const_cast<void *>(data), sizes, stride_bytes, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return DS_OK;
  return ds_error(DS_E_CUDA, "describing an operand of %s to the copy engine failed (CUresult %d)", op,
                  (int)result);
}

#endif
