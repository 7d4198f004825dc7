#include "ds_cpu_dispatch.h"
#include "ds_cpu_tile.h"

typedef struct bias_add_task {
  const ds_bias_add_params *params;
  ds_tile_shape shape;
} bias_add_task;

// Some elements that lie one behind the other in each operand; `other` may be NULL.
typedef struct add_run {
  const char *input, *other;
  char *result;
} add_run;

// Runs along a row, with a bias for each element. Either may be NULL.
typedef struct row_biases {
  const char *bias, *other_bias;
} row_biases;

DS_INLINE void add_vector(ds_dtype dtype, const add_run *run, ds_vector bias, ds_vector other_bias, int64_t i,
                          int count) {
  const int64_t offset = i * ds_element_bytes(dtype);
  ds_prefetch_ahead(run->input, offset);
  ds_vector sum = ds_vector_load(dtype, run->input + offset, count) + bias;
  if (run->other != NULL) {
    ds_prefetch_ahead(run->other, offset);
    sum += ds_vector_load(dtype, run->other + offset, count) + other_bias;
  }
  ds_vector_store(dtype, sum, run->result + offset, count);
}

DS_INLINE void add_to_row_vector(ds_dtype dtype, const add_run *run, const row_biases *biases, int64_t i,
                                 int count) {
  add_vector(dtype, run, ds_vector_load_or(dtype, biases->bias, i, count, ds_no_bias),
             ds_vector_load_or(dtype, biases->other_bias, i, count, ds_no_bias), i, count);
}

DS_INLINE void add_to_row_as(ds_dtype dtype, add_run run, row_biases biases, int64_t count) {
  int64_t i = 0;
  for (; i + DS_LANES <= count; i += DS_LANES) add_to_row_vector(dtype, &run, &biases, i, DS_LANES);
  if (i < count) add_to_row_vector(dtype, &run, &biases, i, ds_rest(count));
}

DS_NOT_INLINE void add_to_row(ds_dtype dtype, const add_run *run, const row_biases *biases, int64_t count) {
  DS_FOR_DTYPE(dtype, add_to_row_as, *run, *biases, count);
}

// Along a column: one bias for all elements.
DS_INLINE void add_to_column_as(ds_dtype dtype, add_run run, float bias, float other_bias, int64_t count) {
  const ds_vector biases = ds_vector_of(bias), other_biases = ds_vector_of(other_bias);
  int64_t i = 0;
  for (; i + DS_LANES <= count; i += DS_LANES) add_vector(dtype, &run, biases, other_biases, i, DS_LANES);
  if (i < count) add_vector(dtype, &run, biases, other_biases, i, ds_rest(count));
}

DS_NOT_INLINE void add_to_column(ds_dtype dtype, const add_run *run, float bias, float other_bias,
                                 int64_t count) {
  DS_FOR_DTYPE(dtype, add_to_column_as, *run, bias, other_bias, count);
}

static const char *vector_from(ds_dtype dtype, const void *vector, int64_t col) {
  return vector == NULL ? NULL : (const char *)vector + col * ds_element_bytes(dtype);
}

static void bias_add_rows(const bias_add_task *task, int64_t first_row, int rows) {
  const ds_bias_add_params *params = task->params;
  const ds_dtype dtype = params->dtype;
  char input_scratch[DS_TILE_BYTES], other_scratch[DS_TILE_BYTES], output_scratch[DS_TILE_BYTES];
  ds_tile input, other, output;
  ds_tile_locate(&params->input, dtype, first_row, rows, &input);
  ds_tile_locate(&params->other, dtype, first_row, rows, &other);
  ds_tile_locate(&params->output, dtype, first_row, rows, &output);

  for (int64_t col = 0; col < params->cols; col += task->shape.cols) {
    const int64_t count = ds_piece(params->cols, col, task->shape.cols);
    const row_biases biases = {vector_from(dtype, params->bias, col),
                               vector_from(dtype, params->other_bias, col)};
    char *in[DS_TILE_MAX_ROWS], *add[DS_TILE_MAX_ROWS], *out[DS_TILE_MAX_ROWS];
    ds_tile_read(&input, col, count, input_scratch, in);
    if (other.rows > 0) ds_tile_read(&other, col, count, other_scratch, add);
    ds_tile_start_write(&output, col, output_scratch, out);
    for (int i = 0; i < rows; i++) {
      const add_run run = {in[i], other.rows > 0 ? add[i] : NULL, out[i]};
      add_to_row(dtype, &run, &biases, count);
    }
    ds_tile_finish_write(&output, col, count, output_scratch);
  }
}

static void bias_add_row_range(int64_t begin, int64_t end, void *argument) {
  const bias_add_task *task = (const bias_add_task *)argument;
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t first_row = tile * task->shape.rows;
    bias_add_rows(task, first_row, (int)ds_piece(task->params->rows, first_row, task->shape.rows));
  }
}

static char *element_at(const ds_rows *view, ds_dtype dtype, int64_t row_offset, int64_t col) {
  return (char *)view->data + (row_offset + col * view->col_stride) * ds_element_bytes(dtype);
}

static float bias_at(ds_dtype dtype, const void *vector, int64_t col) {
  if (vector == NULL) return ds_no_bias;
  return ds_vector_load(dtype, vector_from(dtype, vector, col), 1)[0];
}

// All columns of `count` rows that lie one element apart in every operand.
static void bias_add_columns(const ds_bias_add_params *params, int64_t row, int64_t count) {
  const ds_dtype dtype = params->dtype;
  const int64_t input = ds_rows_offset(&params->input, row), output = ds_rows_offset(&params->output, row);
  const int64_t other = params->other.data == NULL ? 0 : ds_rows_offset(&params->other, row);
  for (int64_t col = 0; col < params->cols; col++) {
    const add_run run = {element_at(&params->input, dtype, input, col),
                         params->other.data == NULL ? NULL : element_at(&params->other, dtype, other, col),
                         element_at(&params->output, dtype, output, col)};
    add_to_column(dtype, &run, bias_at(dtype, params->bias, col), bias_at(dtype, params->other_bias, col),
                  count);
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
    bias_add_columns(params, row, count);
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
