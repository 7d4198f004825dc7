#include "ds_cpu_dispatch.h"
#include "ds_cpu_tile.h"

typedef struct bias_add_task {
  const ds_bias_add_params *params;
  ds_tile_shape shape;
} bias_add_task;

// `result` may be one of the operands.
DS_NOT_INLINE void add_vector(const float *input, const float *bias, float *result, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) result[i] = input[i] + bias[i];
}

DS_NOT_INLINE void add_vectors(const float *input, const float *bias, const float *other,
                               const float *other_bias, float *result, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) result[i] = (input[i] + bias[i]) + (other[i] + other_bias[i]);
}

DS_NOT_INLINE void add_scalar(const float *input, float bias, float *result, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) result[i] = input[i] + bias;
}

DS_NOT_INLINE void add_scalars(const float *input, float bias, const float *other, float other_bias,
                               float *result, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) result[i] = (input[i] + bias) + (other[i] + other_bias);
}

static void bias_add_rows(const bias_add_task *task, int64_t first_row, int rows) {
  const ds_bias_add_params *params = task->params;
  const ds_dtype dtype = params->dtype;
  const int pitch = task->shape.pitch;
  float input_scratch[DS_TILE_FLOATS], other_scratch[DS_TILE_FLOATS];
  float bias_scratch[DS_TILE_MAX_COLS], other_bias_scratch[DS_TILE_MAX_COLS];
  const ds_tile input = ds_tile_locate(&params->input, dtype, first_row, rows);
  const ds_tile other = ds_tile_locate(&params->other, dtype, first_row, rows);
  const ds_tile output = ds_tile_locate(&params->output, dtype, first_row, rows);

  for (int64_t col = 0; col < params->cols; col += task->shape.cols) {
    const int64_t count = ds_piece(params->cols, col, task->shape.cols);
    const float *in[DS_TILE_MAX_ROWS], *add[DS_TILE_MAX_ROWS];
    float *out[DS_TILE_MAX_ROWS];
    const float *bias = ds_vector_read(dtype, params->bias, col, count, ds_no_bias, bias_scratch);
    ds_tile_read(&input, col, count, input_scratch, pitch, in);
    ds_tile_start_write(&output, col, input_scratch, pitch, out);
    if (other.rows > 0) {
      const float *other_bias =
          ds_vector_read(dtype, params->other_bias, col, count, ds_no_bias, other_bias_scratch);
      ds_tile_read(&other, col, count, other_scratch, pitch, add);
      for (int i = 0; i < rows; i++) {
        // Rows that are added in place stream by themselves.
        if (!input.direct) ds_tile_prefetch_next(&input, i, col, count);
        if (!other.direct) ds_tile_prefetch_next(&other, i, col, count);
        add_vectors(in[i], bias, add[i], other_bias, out[i], count);
      }
    } else {
      for (int i = 0; i < rows; i++) add_vector(in[i], bias, out[i], count);
    }
    ds_tile_finish_write(&output, col, count, out);
  }
}

static void bias_add_row_range(int64_t begin, int64_t end, void *argument) {
  const bias_add_task *task = (const bias_add_task *)argument;
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t first_row = tile * task->shape.rows;
    bias_add_rows(task, first_row, (int)ds_piece(task->params->rows, first_row, task->shape.rows));
  }
}

// Elements of a column that are added at a time. Short columns share a tile, to share what a tile costs; long
// ones are read one after the other, in the order of memory.
#define COLUMN_RUN 4096
#define COLUMNS_TOGETHER 8
_Static_assert(COLUMN_RUN + COLUMNS_TOGETHER * 31 <= DS_TILE_FLOATS,
               "columns and their padding fit the scratch");

static int columns_at_a_time(int64_t rows) {
  const int64_t fitting = COLUMN_RUN / rows;
  return fitting < 1 ? 1 : fitting < COLUMNS_TOGETHER ? (int)fitting : COLUMNS_TOGETHER;
}

// Columns first_col … first_col + cols - 1 of `count` rows, one element apart in every operand: the tiles'
// rows are columns here.
static void bias_add_columns(const ds_bias_add_params *params, int64_t row, int64_t count, int64_t first_col,
                             int cols) {
  const ds_dtype dtype = params->dtype;
  const int64_t run = count < COLUMN_RUN ? count : COLUMN_RUN;
  const int64_t pitch = (run + 15) / 16 * 16 + 16;
  float input_scratch[DS_TILE_FLOATS], other_scratch[DS_TILE_FLOATS];
  float bias_scratch[DS_TILE_MAX_ROWS], other_bias_scratch[DS_TILE_MAX_ROWS];
  const ds_tile input = ds_tile_locate_columns(&params->input, dtype, row, first_col, cols);
  const ds_tile other = ds_tile_locate_columns(&params->other, dtype, row, first_col, cols);
  const ds_tile output = ds_tile_locate_columns(&params->output, dtype, row, first_col, cols);
  const float *bias = ds_vector_read(dtype, params->bias, first_col, cols, ds_no_bias, bias_scratch);
  const float *other_bias =
      ds_vector_read(dtype, params->other_bias, first_col, cols, ds_no_bias, other_bias_scratch);

  for (int64_t done = 0; done < count; done += run) {
    const int64_t now = ds_piece(count, done, run);
    const float *in[DS_TILE_MAX_ROWS], *add[DS_TILE_MAX_ROWS];
    float *out[DS_TILE_MAX_ROWS];
    ds_tile_read(&input, done, now, input_scratch, pitch, in);
    ds_tile_start_write(&output, done, input_scratch, pitch, out);
    if (other.rows > 0) {
      ds_tile_read(&other, done, now, other_scratch, pitch, add);
      for (int i = 0; i < cols; i++) add_scalars(in[i], bias[i], add[i], other_bias[i], out[i], now);
    } else {
      for (int i = 0; i < cols; i++) add_scalar(in[i], bias[i], out[i], now);
    }
    ds_tile_finish_write(&output, done, now, out);
  }
}

// How many rows from `row` on lie in the same innermost dimension.
static int64_t rows_left_inside(const ds_rows *view, int64_t row) {
  const int64_t inner = view->sizes[view->dims - 1];
  return inner - row % inner;
}

static void bias_add_column_range(int64_t begin, int64_t end, void *argument) {
  const bias_add_task *task = (const bias_add_task *)argument;
  const ds_bias_add_params *params = task->params;
  const int64_t last = end * task->shape.rows < params->rows ? end * task->shape.rows : params->rows;
  for (int64_t row = begin * task->shape.rows; row < last;) {
    int64_t count = last - row;
    const ds_rows *operands[] = {&params->input, &params->output, &params->other};
    for (int i = 0; i < (params->other.data != NULL ? 3 : 2); i++) {
      const int64_t left = rows_left_inside(operands[i], row);
      if (left < count) count = left;
    }
    const int step = columns_at_a_time(count);
    for (int64_t col = 0; col < params->cols; col += step)
      bias_add_columns(params, row, count, col, (int)ds_piece(params->cols, col, step));
    row += count;
  }
}

static int rows_are_adjacent(const ds_rows *view) {
  return view->strides[view->dims - 1] == 1;
}

// Whether to walk along rows at a fixed column: NCHW memory, or a single channel.
static int goes_by_columns(const ds_bias_add_params *params) {
  return rows_are_adjacent(&params->input) && rows_are_adjacent(&params->output) &&
         (params->other.data == NULL || rows_are_adjacent(&params->other));
}

ds_status DS_CPU_NAME(ds_bias_add_cpu)(const ds_bias_add_params *params, ds_parallel_for_fn parallel_for) {
  if (params->rows <= 0 || params->cols <= 0) return DS_OK;
  const int by_columns = goes_by_columns(params);
  bias_add_task task = {params, ds_tile_shape_for(params->dtype, params->cols, &params->input, &params->other,
                                                  &params->output)};
  if (by_columns) task.shape.rows = 64;
  return ds_parallel_for_tiles(parallel_for, params->rows, params->cols, task.shape.rows,
                               by_columns ? bias_add_column_range : bias_add_row_range, &task);
}
