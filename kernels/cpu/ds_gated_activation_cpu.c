#include "ds_cpu_activations.h"
#include "ds_cpu_dispatch.h"
#include "ds_cpu_tile.h"

typedef struct gated_activation_task {
  const ds_gated_activation_params *params;
  ds_rows output;
  ds_tile_shape shape;
} gated_activation_task;

// `result` may be `value`.
DS_NOT_INLINE void gate_by_gelu(const float *value, const float *value_bias, const float *gate,
                                const float *gate_bias, float *result, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++)
    result[i] = (value[i] + value_bias[i]) * ds_gelu(gate[i] + gate_bias[i]);
}

DS_NOT_INLINE void gate_by_silu(const float *value, const float *value_bias, const float *gate,
                                const float *gate_bias, float *result, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++)
    result[i] = (value[i] + value_bias[i]) * ds_silu(gate[i] + gate_bias[i]);
}

static void gated_activation_rows(const gated_activation_task *task, int64_t first_row, int rows) {
  const ds_gated_activation_params *params = task->params;
  const ds_dtype dtype = params->dtype;
  const int64_t cols = params->cols;
  const int pitch = task->shape.pitch;
  float value_scratch[DS_TILE_FLOATS], gate_scratch[DS_TILE_FLOATS];
  float value_bias_scratch[DS_TILE_MAX_COLS], gate_bias_scratch[DS_TILE_MAX_COLS];
  const ds_tile input = ds_tile_locate(&params->input, dtype, first_row, rows);
  const ds_tile output = ds_tile_locate(&task->output, dtype, first_row, rows);

  for (int64_t col = 0; col < cols; col += task->shape.cols) {
    const int64_t count = ds_piece(cols, col, task->shape.cols);
    const float *value[DS_TILE_MAX_ROWS], *gate[DS_TILE_MAX_ROWS];
    float *out[DS_TILE_MAX_ROWS];
    const float *value_bias = ds_vector_read(dtype, params->bias, col, count, ds_no_bias, value_bias_scratch);
    const float *gate_bias =
        ds_vector_read(dtype, params->bias, cols + col, count, ds_no_bias, gate_bias_scratch);
    ds_tile_read(&input, col, count, value_scratch, pitch, value);
    ds_tile_read(&input, cols + col, count, gate_scratch, pitch, gate);
    ds_tile_start_write(&output, col, value_scratch, pitch, out);
    for (int i = 0; i < rows; i++) {
      ds_tile_prefetch_next(&input, i, col, count);
      ds_tile_prefetch_next(&input, i, cols + col, count);
      if (params->activation_type == DS_ACTIVATION_GATED_SILU)
        gate_by_silu(value[i], value_bias, gate[i], gate_bias, out[i], count);
      else
        gate_by_gelu(value[i], value_bias, gate[i], gate_bias, out[i], count);
    }
    ds_tile_finish_write(&output, col, count, out);
  }
}

static void gated_activation_range(int64_t begin, int64_t end, void *argument) {
  const gated_activation_task *task = (const gated_activation_task *)argument;
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t first_row = tile * task->shape.rows;
    gated_activation_rows(task, first_row, (int)ds_piece(task->params->rows, first_row, task->shape.rows));
  }
}

ds_status DS_CPU_NAME(ds_gated_activation_cpu)(const ds_gated_activation_params *params,
                                               ds_parallel_for_fn parallel_for) {
  if (params->rows <= 0 || params->cols <= 0) return DS_OK;
  const ds_rows output = ds_rows_contiguous(params->output, params->rows, params->cols);
  gated_activation_task task = {
      params, output, ds_tile_shape_for(params->dtype, params->cols, &params->input, &output, &output)};
  return ds_parallel_for_tiles(parallel_for, params->rows, params->cols, task.shape.rows,
                               gated_activation_range, &task);
}
