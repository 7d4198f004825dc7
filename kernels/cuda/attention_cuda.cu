// Attention of this library's own: contract in ds_attention_params.h, method in attention_kernels.cuh.
#include "attention_kernels.cuh"
#include "ds_cuda_dtype.cuh"
#include "ds_cuda_launch.cuh"
#include "ds_kernels_cuda.h"
#include "ds_tensor_map.cuh"

namespace {

constexpr char op[] = "attention";

// Head sizes that there are kernels for.
#define DS_ATTENTION_HEAD_SIZES(X) X(40) X(64) X(72) X(80) X(160)

// Describes [batch, tokens, heads, head_size] to the copy engine, to be read in boxes of `rows` tokens of one
// head.
ds_status make_map(CUtensorMap *map, const ds_attention_params &params, const void *data, int64_t tokens,
                   const int64_t *strides, int rows) {
  return ds_make_tensor_map<4>(op, map, params.dtype, data,
                               {{params.head_size, params.heads, tokens, params.batch},
                                {strides[2], strides[1], strides[0]},
                                {CHUNK, 1, rows, 1}});
}

int64_t tiles_of(const ds_attention_params &params, int queries) {
  return ds_ceil_div(params.query_tokens, queries) * params.heads * params.batch;
}

template <typename T, int HEAD, int WARPGROUPS, bool SHORT>
ds_status launch(const ds_attention_params &params, const ds_cuda_device &device, void *stream) {
  using shape = attention_shape<HEAD, WARPGROUPS, SHORT>;
  CUtensorMap query_map, key_map, value_map;
  DS_CHECK(
      make_map(&query_map, params, params.query, params.query_tokens, params.query_strides, shape::QUERIES));
  DS_CHECK(make_map(&key_map, params, params.key, params.key_tokens, params.key_strides, shape::KEYS));
  DS_CHECK(make_map(&value_map, params, params.value, params.key_tokens, params.value_strides, shape::KEYS));
  attention_arguments arguments;
  arguments.output = params.output;
  arguments.query_tokens = (int)params.query_tokens;
  arguments.key_tokens = (int)params.key_tokens;
  arguments.heads = (int)params.heads;
  arguments.query_blocks = (int)ds_ceil_div(params.query_tokens, shape::QUERIES);
  arguments.tiles = (int)tiles_of(params, shape::QUERIES);
  arguments.scale = 1.4426950408889634f / sqrtf((float)params.head_size);
  constexpr auto kernel = attention_kernel<T, HEAD, WARPGROUPS, SHORT>;
  DS_CHECK((ds_allow_shared_bytes<kernel, shape::SHARED_BYTES>(op, device)));
  const int64_t blocks = ds_min(arguments.tiles, (int64_t)device.multiprocessors * shape::BLOCKS);
  return ds_launch_early(op, kernel, dim3((unsigned)blocks), dim3(shape::THREADS), shape::SHARED_BYTES,
                         stream, query_map, key_map, value_map, arguments);
}

// Two warpgroups share keys and values, one makes twice as many tiles: better where there are few.
template <typename T, int HEAD>
ds_status choose_form(const ds_attention_params &params, const ds_cuda_device &device, void *stream) {
  if (params.key_tokens <= attention_shape<HEAD, 1, true>::KEYS)
    return launch<T, HEAD, 1, true>(params, device, stream);
  return tiles_of(params, 128) * 2 > device.multiprocessors
             ? launch<T, HEAD, 2, false>(params, device, stream)
             : launch<T, HEAD, 1, false>(params, device, stream);
}

template <typename T>
ds_status choose_head_size(const ds_attention_params &params, const ds_cuda_device &device, void *stream) {
  switch (params.head_size) {
#define DS_CASE(head_size)                                                                                   \
  case head_size:                                                                                            \
    return choose_form<T, head_size>(params, device, stream);
    DS_ATTENTION_HEAD_SIZES(DS_CASE)
#undef DS_CASE
  }
#define DS_NAME(size) " " #size
  return ds_error(DS_E_SHAPE, "attention: head_size is %lld, must be one of" DS_ATTENTION_HEAD_SIZES(DS_NAME),
                  (long long)params.head_size);
#undef DS_NAME
}

bool has_head_size(int64_t head_size) {
#define DS_IS_SIZE(size) || head_size == size
  return false DS_ATTENTION_HEAD_SIZES(DS_IS_SIZE);
#undef DS_IS_SIZE
}

bool is_describable(const void *data, const int64_t *strides, int64_t tokens) {
  return ds_is_aligned(data) && ds_can_map_size(tokens) && ds_can_map_stride(strides[0]) &&
         ds_can_map_stride(strides[1]) && ds_can_map_stride(strides[2]);
}

// Measured on an H200 against PyTorch's fastest (cuDNN): 1.2 to 1.7 times as fast for one block of keys, for
// heads of 72 and more, and where few tiles make a short launch; 1.02 to 1.07 times for a number of tokens
// that is no multiple of 128; 0.92 to 0.96 times for long regular ones. There those are left to PyTorch that
// take the GPU longer than the CPU, on which a call of PyTorch's attention takes 20 microseconds and keeps
// the block from being launched as recorded.
bool is_better(const ds_attention_params &params, const ds_cuda_device &device) {
  constexpr int64_t most_scores = (int64_t)1 << 26;
  return params.key_tokens <= 80 || params.head_size >= 72 || params.query_tokens % 128 != 0 ||
         tiles_of(params, 128) <= device.multiprocessors ||
         tiles_of(params, 1) <= most_scores / params.key_tokens;
}

} // namespace

int ds_attention_serves_cuda(const ds_attention_params *params) {
  const bool has_kernel = (params->dtype == DS_FLOAT16 || params->dtype == DS_BFLOAT16) &&
                          params->mask == NULL && has_head_size(params->head_size) &&
                          ds_is_aligned(params->output) &&
                          is_describable(params->query, params->query_strides, params->query_tokens) &&
                          is_describable(params->key, params->key_strides, params->key_tokens) &&
                          is_describable(params->value, params->value_strides, params->key_tokens) &&
                          tiles_of(*params, 64) <= INT32_MAX / 2;
  ds_cuda_device device;
  return has_kernel && ds_cuda_current_device(&device) == DS_OK && device.code == DS_CUDA_CODE_90A &&
         is_better(*params, device) && ds_encode_tiled() != NULL;
}

ds_status ds_attention_cuda(const ds_attention_params *params, void *stream) {
  ds_cuda_device device;
  DS_CHECK(ds_cuda_current_device(&device));
  return ds_with_16_bit_element(op, params->dtype, [&](auto element) {
    return choose_head_size<typename decltype(element)::type>(*params, device, stream);
  });
}
