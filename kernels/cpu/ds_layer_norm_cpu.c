#include "ds_cpu_dispatch.h"
#include "ds_cpu_tile.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

// Rows that are not read in place are staged whole, as float32, so that the passes over a row after the first
// read neither memory nor 16-bit elements. Up to this many floats lie on the stack.
#define STAGE_FLOATS 8192

// Tall tiles of long rows are lowered to this, so that a tile stays in a core's own cache.
#define STAGE_MAX_FLOATS (256 * 1024)

typedef struct layer_norm_task {
  const ds_layer_norm_params *params;
  ds_rows output;
  ds_rows sum;
  ds_tile_shape shape; // rows of a tile; columns that are summed or written at a time
  int staged;
  int64_t pitch; // floats between staged rows
  atomic_int status;
} layer_norm_task;

typedef struct row_statistics {
  float mean;
  float reciprocal_deviation;
} row_statistics;

// As many floats as one register holds; may lie at any address.
#if defined(__AVX512F__)
#  define LANES 16
#elif defined(__AVX2__)
#  define LANES 8
#else
#  define LANES 4
#endif
typedef float vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

static float sum_of_lanes(vector lanes) {
  float parts[LANES];
  memcpy(parts, &lanes, sizeof parts);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) parts[i] += parts[half + i];
  return parts[0];
}

// Sums of at most SUM_COLS elements are taken in float32, in four independent vectors that hide the latency
// of an addition; sums of these in double, so that the error does not grow with the row.
#define SUM_COLS 1024

DS_NOT_INLINE float sum_vector(const float *row, int64_t count) {
  vector a = {0}, b = {0}, c = {0}, d = {0};
  int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES) {
    const vector *next = (const vector *)(row + i);
    a += next[0];
    b += next[1];
    c += next[2];
    d += next[3];
  }
  for (; i + LANES <= count; i += LANES) a += *(const vector *)(row + i);
  float sum = sum_of_lanes((a + b) + (c + d));
  for (; i < count; i++) sum += row[i];
  return sum;
}

typedef struct deviations {
  float sum;
  float squares;
} deviations;

DS_NOT_INLINE deviations sum_deviations(const float *row, float mean, int64_t count) {
  vector a = {0}, b = {0}, c = {0}, d = {0}, sum_a = {0}, sum_b = {0};
  int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES) {
    const vector *next = (const vector *)(row + i);
    const vector first = next[0] - mean, second = next[1] - mean, third = next[2] - mean,
                 last = next[3] - mean;
    a += first * first;
    b += second * second;
    c += third * third;
    d += last * last;
    sum_a += first + second;
    sum_b += third + last;
  }
  for (; i + LANES <= count; i += LANES) {
    const vector centred = *(const vector *)(row + i) - mean;
    a += centred * centred;
    sum_a += centred;
  }
  deviations result = {sum_of_lanes(sum_a + sum_b), sum_of_lanes((a + b) + (c + d))};
  for (; i < count; i++) {
    result.squares += (row[i] - mean) * (row[i] - mean);
    result.sum += row[i] - mean;
  }
  return result;
}

// The deviations from the computed mean add up to what its rounding took away, which is given back: so a row
// of equal elements has exactly them for its mean (Chan, Golub, LeVeque: corrected two-pass algorithm, 1983).
static row_statistics statistics_of(const float *row, int64_t cols, float epsilon) {
  double sum = 0.0, deviation = 0.0, squares = 0.0;
  for (int64_t col = 0; col < cols; col += SUM_COLS)
    sum += sum_vector(row + col, ds_piece(cols, col, SUM_COLS));
  const float mean = (float)(sum / (double)cols);
  for (int64_t col = 0; col < cols; col += SUM_COLS) {
    const deviations part = sum_deviations(row + col, mean, ds_piece(cols, col, SUM_COLS));
    deviation += part.sum;
    squares += part.squares;
  }
  const double correction = deviation / (double)cols;
  const double variance = squares / (double)cols - correction * correction;
  // Below zero by a rounding error alone; a NaN stays one.
  const double spread = (variance < 0 ? 0.0 : variance) + (double)epsilon;
  return (row_statistics){(float)((double)mean + correction), (float)(1.0 / sqrt(spread))};
}

// `result` may be `input`.
DS_NOT_INLINE void add_vectors(const float *input, const float *bias, const float *residual, float *result,
                               int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) result[i] = (input[i] + bias[i]) + residual[i];
}

DS_NOT_INLINE void add_vector(const float *input, const float *bias, float *result, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) result[i] = input[i] + bias[i];
}

DS_NOT_INLINE void normalize_vector(const float *row, row_statistics statistics, const float *gamma,
                                    const float *beta, float *result, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++)
    result[i] = (row[i] - statistics.mean) * statistics.reciprocal_deviation * gamma[i] + beta[i];
}

// Fills `stage` with input + bias + residual.
static void stage_rows(const layer_norm_task *task, const ds_tile *input, int64_t first_row, float *stage) {
  const ds_layer_norm_params *params = task->params;
  if (params->bias == NULL && params->residual.data == NULL) {
    ds_tile_copy_in(input, 0, params->cols, stage, task->pitch);
    return;
  }
  float residual_scratch[DS_TILE_FLOATS], bias_scratch[DS_TILE_MAX_COLS];
  const ds_tile residual = ds_tile_locate(&params->residual, params->dtype, first_row, input->rows);
  for (int64_t col = 0; col < params->cols; col += task->shape.cols) {
    const int64_t count = ds_piece(params->cols, col, task->shape.cols);
    const float *in[DS_TILE_MAX_ROWS], *add[DS_TILE_MAX_ROWS];
    const float *bias = ds_vector_read(params->dtype, params->bias, col, count, ds_no_bias, bias_scratch);
    ds_tile_read(input, col, count, stage + col, task->pitch, in);
    ds_tile_read(&residual, col, count, residual_scratch, task->shape.pitch, add);
    for (int i = 0; i < input->rows; i++) {
      float *result = stage + i * task->pitch + col;
      ds_tile_prefetch_next(&residual, i, col, count);
      if (residual.rows > 0)
        add_vectors(in[i], bias, add[i], result, count);
      else
        add_vector(in[i], bias, result, count);
    }
  }
}

static void store_sum(const layer_norm_task *task, int64_t first_row, int rows, const float *const *row) {
  const ds_tile sum = ds_tile_locate(&task->sum, task->params->dtype, first_row, rows);
  for (int i = 0; i < rows; i++) ds_store_run(task->params->dtype, row[i], task->params->cols, sum.row[i]);
}

static void normalize_rows(const layer_norm_task *task, int64_t first_row, int rows, const float *const *row,
                           const ds_tile *input) {
  const ds_layer_norm_params *params = task->params;
  float gamma_scratch[DS_TILE_MAX_COLS], beta_scratch[DS_TILE_MAX_COLS], output_scratch[DS_TILE_FLOATS];
  row_statistics statistics[DS_TILE_MAX_ROWS];
  const ds_tile output = ds_tile_locate(&task->output, params->dtype, first_row, rows);
  for (int i = 0; i < rows; i++) statistics[i] = statistics_of(row[i], params->cols, params->epsilon);
  for (int64_t col = 0; col < params->cols; col += task->shape.cols) {
    const int64_t count = ds_piece(params->cols, col, task->shape.cols);
    float *out[DS_TILE_MAX_ROWS];
    const float *gamma = ds_vector_read(params->dtype, params->gamma, col, count, 1.0f, gamma_scratch);
    const float *beta = ds_vector_read(params->dtype, params->beta, col, count, ds_no_bias, beta_scratch);
    ds_tile_start_write(&output, col, output_scratch, task->shape.pitch, out);
    for (int i = 0; i < rows; i++) {
      ds_tile_prefetch_next(input, i, col, count);
      normalize_vector(row[i] + col, statistics[i], gamma, beta, out[i], count);
    }
    ds_tile_finish_write(&output, col, count, out);
  }
}

static void layer_norm_tile(const layer_norm_task *task, int64_t first_row, int rows, float *stage) {
  const ds_layer_norm_params *params = task->params;
  const float *row[DS_TILE_MAX_ROWS];
  const ds_tile input = ds_tile_locate(&params->input, params->dtype, first_row, rows);
  if (task->staged) {
    stage_rows(task, &input, first_row, stage);
    for (int i = 0; i < rows; i++) row[i] = stage + i * task->pitch;
  } else {
    ds_tile_read(&input, 0, params->cols, stage, task->pitch, row);
  }
  if (params->sum != NULL) store_sum(task, first_row, rows, row);
  normalize_rows(task, first_row, rows, row, &input);
}

static void layer_norm_range(int64_t begin, int64_t end, void *argument) {
  layer_norm_task *task = (layer_norm_task *)argument;
  float on_stack[STAGE_FLOATS];
  float *stage = on_stack;
  if (task->staged && task->pitch > STAGE_FLOATS / task->shape.rows) {
    stage = (float *)malloc((size_t)task->pitch * (size_t)task->shape.rows * sizeof *stage);
    if (stage == NULL) {
      atomic_store_explicit(&task->status, DS_E_MEMORY, memory_order_relaxed);
      return;
    }
  }
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t first_row = tile * task->shape.rows;
    layer_norm_tile(task, first_row, (int)ds_piece(task->params->rows, first_row, task->shape.rows), stage);
  }
  if (stage != on_stack) free(stage);
}

// Few enough rows for a tile to stay in the first-level cache where rows lie whole, in the second-level cache
// where they are gathered.
static int tile_rows(const ds_layer_norm_params *params, int most, int64_t pitch) {
  const int contiguous =
      params->input.col_stride == 1 && (params->residual.data == NULL || params->residual.col_stride == 1);
  const int64_t fitting = (contiguous ? STAGE_FLOATS / 2 : STAGE_MAX_FLOATS) / pitch;
  return fitting < 1 ? 1 : fitting < most ? (int)fitting : most;
}

ds_status DS_CPU_NAME(ds_layer_norm_cpu)(const ds_layer_norm_params *params,
                                         ds_parallel_for_fn parallel_for) {
  if (params->rows <= 0 || params->cols <= 0) return DS_OK;
  if (params->cols > PTRDIFF_MAX / (int64_t)sizeof(float) - 32)
    return ds_error(DS_E_MEMORY, "rows of %lld columns are too long", (long long)params->cols);
  layer_norm_task task = {.params = params};
  task.output = ds_rows_contiguous(params->output, params->rows, params->cols);
  task.sum = ds_rows_contiguous(params->sum, params->rows, params->cols);
  task.shape =
      ds_tile_shape_for(params->dtype, params->cols, &params->input, &params->residual, &task.output);
  task.staged = !ds_tile_is_direct(&params->input, params->dtype) || params->bias != NULL ||
                params->residual.data != NULL;
  task.pitch = (params->cols + 15) / 16 * 16 + 16;
  task.shape.rows = tile_rows(params, task.shape.rows, task.pitch);
  atomic_init(&task.status, DS_OK);
  DS_CHECK(ds_parallel_for_tiles(parallel_for, params->rows, params->cols, task.shape.rows, layer_norm_range,
                                 &task));
  // The message belongs to the calling thread; the failure may have been another's.
  if (atomic_load_explicit(&task.status, memory_order_relaxed) != DS_OK)
    return ds_error(DS_E_MEMORY, "no memory for %lld bytes of scratch for rows of %lld columns",
                    (long long)(task.pitch * task.shape.rows * (int64_t)sizeof(float)),
                    (long long)params->cols);
  return DS_OK;
}
