#include "ds_cpu_dispatch.h"
#include "ds_cpu_tile.h"

// Elements that pass through scratch on their way to a 16-bit type: few enough to stay in the first cache.
enum { RUN = 1024 };

DS_NOT_INLINE void scale_run(const int8_t *weight, float scale, int64_t count, float *result) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) result[i] = (float)weight[i] * scale;
}

static void dequantize_group(ds_dtype dtype, const int8_t *weight, float scale, int64_t count, char *output) {
  if (dtype == DS_FLOAT32) {
    scale_run(weight, scale, count, (float *)(void *)output);
    return;
  }
  float scratch[RUN];
  for (int64_t first = 0; first < count; first += RUN) {
    const int64_t run = ds_piece(count, first, RUN);
    scale_run(weight + first, scale, run, scratch);
    ds_store_run(dtype, scratch, run, output + first * 2);
  }
}

static void dequantize_rows(int64_t begin, int64_t end, void *argument) {
  const ds_dequantize_params *params = (const ds_dequantize_params *)argument;
  const int64_t group = params->cols / params->groups, bytes = params->dtype == DS_FLOAT32 ? 4 : 2;
  for (int64_t row = begin; row < end; row++)
    for (int64_t i = 0; i < params->groups; i++) {
      float scale; // of a tensor that may start at any byte
      memcpy(&scale, (const char *)params->scale + (row * params->groups + i) * (int64_t)sizeof scale,
             sizeof scale);
      dequantize_group(params->dtype, params->weight + row * params->weight_row_stride + i * group, scale,
                       group, (char *)params->output + (row * params->cols + i * group) * bytes);
    }
}

ds_status DS_CPU_NAME(ds_dequantize_cpu)(const ds_dequantize_params *params,
                                         ds_parallel_for_fn parallel_for) {
  if (params->rows <= 0 || params->cols <= 0) return DS_OK;
  return ds_parallel_for_tiles(parallel_for, params->rows, params->cols, 1, dequantize_rows,
                               (void *)(uintptr_t)params);
}
