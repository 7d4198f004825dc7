#include "ds_cpu_activations.h"
#include "ds_cpu_dispatch.h"
#include "ds_cpu_tile.h"

typedef struct gated_activation_task {
  const ds_gated_activation_params *params;
  ds_rows output;
  ds_tile_shape shape;
} gated_activation_task;

// Some neighbouring columns of one row. Biases may be NULL, both of them.
typedef struct gate_run {
  const char *value, *value_bias, *gate, *gate_bias;
  char *result;
} gate_run;

DS_INLINE void gate_vector(ds_dtype dtype, int silu, const gate_run *run, int64_t i, int count) {
  const int64_t offset = i * ds_element_bytes(dtype);
  ds_prefetch_ahead(run->value, offset);
  ds_prefetch_ahead(run->gate, offset);
  const ds_vector value = ds_vector_load(dtype, run->value + offset, count) +
                          ds_vector_load_or(dtype, run->value_bias, i, count, ds_no_bias);
  const ds_vector gate = ds_vector_load(dtype, run->gate + offset, count) +
                         ds_vector_load_or(dtype, run->gate_bias, i, count, ds_no_bias);
  ds_vector_store(dtype, value * (silu ? ds_silu(gate) : ds_gelu(gate)), run->result + offset, count);
}

DS_INLINE void gate_as(ds_dtype dtype, int silu, gate_run run, int64_t count) {
  int64_t i = 0;
  for (; i + DS_LANES <= count; i += DS_LANES) gate_vector(dtype, silu, &run, i, DS_LANES);
  if (i < count) gate_vector(dtype, silu, &run, i, ds_rest(count));
}

DS_NOT_INLINE void gate_by_gelu(ds_dtype dtype, const gate_run *run, int64_t count) {
  DS_FOR_DTYPE(dtype, gate_as, 0, *run, count);
}

DS_NOT_INLINE void gate_by_silu(ds_dtype dtype, const gate_run *run, int64_t count) {
  DS_FOR_DTYPE(dtype, gate_as, 1, *run, count);
}

static const char *bias_from(const ds_gated_activation_params *params, int64_t col) {
  return params->bias == NULL ? NULL : (const char *)params->bias + col * ds_element_bytes(params->dtype);
}

static void gated_activation_rows(const gated_activation_task *task, int64_t first_row, int rows) {
  const ds_gated_activation_params *params = task->params;
  const int64_t cols = params->cols;
  char value_scratch[DS_TILE_BYTES], gate_scratch[DS_TILE_BYTES];
  ds_tile input, output;
  ds_tile_locate(&params->input, params->dtype, first_row, rows, &input);
  ds_tile_locate(&task->output, params->dtype, first_row, rows, &output);

  for (int64_t col = 0; col < cols; col += task->shape.cols) {
    const int64_t count = ds_piece(cols, col, task->shape.cols);
    char *value[DS_TILE_MAX_ROWS], *gate[DS_TILE_MAX_ROWS];
    ds_tile_read(&input, col, count, value_scratch, value);
    ds_tile_read(&input, cols + col, count, gate_scratch, gate);
    for (int i = 0; i < rows; i++) {
      const gate_run run = {value[i], bias_from(params, col), gate[i], bias_from(params, cols + col),
                            output.row[i] + col * output.bytes};
      if (params->activation_type == DS_ACTIVATION_GATED_SILU)
        gate_by_silu(params->dtype, &run, count);
      else
        gate_by_gelu(params->dtype, &run, count);
    }
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
