#include "ds_cpu_dispatch.h"
#include "ds_cpu_tile.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

// Rows that are not float32 already are staged whole as such, so that the passes over a row after the first
// read neither memory nor 16-bit elements. Up to this many floats lie on the stack.
#define STAGE_FLOATS 8192

// Tall tiles of long rows are lowered to this, so that a tile stays in a core's own cache.
#define STAGE_MAX_FLOATS (256 * 1024)

typedef struct layer_norm_task {
  const ds_layer_norm_params *params;
  ds_rows output;
  ds_rows sum;
  ds_tile_shape shape; // rows of a tile; columns that are read at a time
  int staged;
  int64_t pitch; // floats between staged rows
  atomic_int status;
} layer_norm_task;

typedef struct row_statistics {
  float mean;
  float reciprocal_deviation;
} row_statistics;

// Sums of at most SUM_COLS elements are taken in float32, in independent vectors that hide the latency of an
// addition; sums of these in double, so that the error does not grow with the row.
#define SUM_COLS (64 * 4 * DS_LANES)

// Some neighbouring columns of one row: s = input + bias + residual. `stage` gets s as float32, `sum` gets it
// rounded. All but the input may be NULL; where there is more than the input, stage is there as well.
typedef struct stage_run {
  const char *input, *bias, *residual;
  float *stage;
  char *sum;
} stage_run;

typedef enum stage_kind { STAGE_NOTHING, STAGE_INPUT, STAGE_SUM } stage_kind;

DS_INLINE ds_vector stage_vector(ds_dtype dtype, stage_kind kind, const stage_run *run, int64_t i,
                                 int count) {
  const int64_t offset = i * ds_element_bytes(dtype);
  ds_vector values = ds_vector_load(dtype, run->input + offset, count);
  if (kind == STAGE_SUM) {
    values += ds_vector_load_or(dtype, run->bias, i, count, ds_no_bias);
    if (run->residual != NULL) ds_prefetch_ahead(run->residual, offset);
    values += ds_vector_load_or(dtype, run->residual, i, count, ds_no_bias);
    values = ds_vector_first(values, count);
    if (run->sum != NULL) ds_vector_store(dtype, values, run->sum + offset, count);
  }
  if (kind != STAGE_NOTHING) ds_vector_store(DS_FLOAT32, values, (char *)(run->stage + i), count);
  return values;
}

DS_INLINE void stage_as(ds_dtype dtype, stage_kind kind, stage_run run, int64_t count, float *total) {
  ds_vector a = {0}, b = {0}, c = {0}, d = {0};
  int64_t i = 0;
  for (; i + 4 * DS_LANES <= count; i += 4 * DS_LANES) {
    a += stage_vector(dtype, kind, &run, i, DS_LANES);
    b += stage_vector(dtype, kind, &run, i + DS_LANES, DS_LANES);
    c += stage_vector(dtype, kind, &run, i + 2 * DS_LANES, DS_LANES);
    d += stage_vector(dtype, kind, &run, i + 3 * DS_LANES, DS_LANES);
  }
  for (; i + DS_LANES <= count; i += DS_LANES) a += stage_vector(dtype, kind, &run, i, DS_LANES);
  if (i < count) b += stage_vector(dtype, kind, &run, i, ds_rest(count));
  *total = ds_vector_sum((a + b) + (c + d));
}

// Returns the sum of the run's s.
DS_NOT_INLINE float stage(ds_dtype dtype, const stage_run *run, int64_t count) {
  float total = 0;
  if (run->residual != NULL || run->bias != NULL || run->sum != NULL)
    DS_FOR_DTYPE(dtype, stage_as, STAGE_SUM, *run, count, &total);
  else if (run->stage != NULL)
    DS_FOR_DTYPE(dtype, stage_as, STAGE_INPUT, *run, count, &total);
  else
    stage_as(DS_FLOAT32, STAGE_NOTHING, *run, count, &total);
  return total;
}

typedef struct deviations {
  double sum;
  double squares;
} deviations;

DS_INLINE ds_vector deviation_vector(const float *row, ds_vector mean, int64_t i, int count) {
  return ds_vector_first(ds_vector_load(DS_FLOAT32, (const char *)(row + i), count) - mean, count);
}

// Adds those of `count` elements, at most SUM_COLS.
DS_NOT_INLINE void add_deviations(const float *row, float mean, int64_t count, deviations *total) {
  const ds_vector means = ds_vector_of(mean);
  ds_vector a = {0}, b = {0}, c = {0}, d = {0}, sum_a = {0}, sum_b = {0};
  int64_t i = 0;
  for (; i + 4 * DS_LANES <= count; i += 4 * DS_LANES) {
    const ds_vector first = deviation_vector(row, means, i, DS_LANES),
                    second = deviation_vector(row, means, i + DS_LANES, DS_LANES),
                    third = deviation_vector(row, means, i + 2 * DS_LANES, DS_LANES),
                    last = deviation_vector(row, means, i + 3 * DS_LANES, DS_LANES);
    a += first * first;
    b += second * second;
    c += third * third;
    d += last * last;
    sum_a += first + second;
    sum_b += third + last;
  }
  for (; i + DS_LANES <= count; i += DS_LANES) {
    const ds_vector centred = deviation_vector(row, means, i, DS_LANES);
    a += centred * centred;
    sum_a += centred;
  }
  if (i < count) {
    const ds_vector centred = deviation_vector(row, means, i, ds_rest(count));
    b += centred * centred;
    sum_b += centred;
  }
  total->sum += ds_vector_sum(sum_a + sum_b);
  total->squares += ds_vector_sum((a + b) + (c + d));
}

// The deviations from the computed mean add up to what its rounding took away, which is given back: so a row
// of equal elements has exactly them for its mean (Chan, Golub, LeVeque: corrected two-pass algorithm, 1983).
static row_statistics statistics_of(const float *row, double sum, int64_t cols, float epsilon) {
  deviations total = {0, 0};
  const float mean = (float)(sum / (double)cols);
  for (int64_t col = 0; col < cols; col += SUM_COLS)
    add_deviations(row + col, mean, ds_piece(cols, col, SUM_COLS), &total);
  const double correction = total.sum / (double)cols;
  const double variance = total.squares / (double)cols - correction * correction;
  // Below zero by a rounding error alone; a NaN stays one.
  const double spread = (variance < 0 ? 0.0 : variance) + (double)epsilon;
  return (row_statistics){(float)((double)mean + correction), (float)(1.0 / sqrt(spread))};
}

// `next`: memory to be asked for meanwhile, or NULL.
typedef struct normalize_run {
  const float *row;
  const char *gamma, *beta;
  char *output;
  const char *next;
} normalize_run;

DS_INLINE void normalize_vector(ds_dtype dtype, const normalize_run *run, row_statistics statistics,
                                int64_t i, int count) {
  const int64_t offset = i * ds_element_bytes(dtype);
  const ds_vector row = ds_vector_load(DS_FLOAT32, (const char *)(run->row + i), count);
  const ds_vector gamma = ds_vector_load_or(dtype, run->gamma, i, count, 1.0f);
  const ds_vector beta = ds_vector_load_or(dtype, run->beta, i, count, ds_no_bias);
  if (run->next != NULL) ds_prefetch(run->next, offset);
  ds_vector_store(dtype, (row - statistics.mean) * statistics.reciprocal_deviation * gamma + beta,
                  run->output + offset, count);
}

DS_INLINE void normalize_as(ds_dtype dtype, normalize_run run, row_statistics statistics, int64_t count) {
  int64_t i = 0;
  for (; i + DS_LANES <= count; i += DS_LANES) normalize_vector(dtype, &run, statistics, i, DS_LANES);
  if (i < count) normalize_vector(dtype, &run, statistics, i, ds_rest(count));
}

DS_NOT_INLINE void normalize(ds_dtype dtype, const normalize_run *run, row_statistics statistics,
                             int64_t count) {
  DS_FOR_DTYPE(dtype, normalize_as, *run, statistics, count);
}

// Reads the tile's rows: fills `row`, with float32 rows in place or in `stage`, and the sums of their
// elements.
static void read_rows(const layer_norm_task *task, const ds_tile *input, int64_t first_row,
                      float *stage_start, const float **row, double *sums) {
  const ds_layer_norm_params *params = task->params;
  const ds_dtype dtype = params->dtype;
  char input_scratch[DS_TILE_BYTES], residual_scratch[DS_TILE_BYTES];
  ds_tile residual, sum;
  ds_tile_locate(&params->residual, dtype, first_row, input->rows, &residual);
  ds_tile_locate(&task->sum, dtype, first_row, input->rows, &sum);
  for (int i = 0; i < input->rows; i++) {
    row[i] = task->staged ? stage_start + i * task->pitch : (const float *)(const void *)input->row[i];
    sums[i] = 0;
  }
  for (int64_t col = 0; col < params->cols; col += task->shape.cols) {
    const int64_t count = ds_piece(params->cols, col, task->shape.cols);
    const char *bias = params->bias == NULL ? NULL : (const char *)params->bias + col * input->bytes;
    char *in[DS_TILE_MAX_ROWS], *add[DS_TILE_MAX_ROWS];
    ds_tile_read(input, col, count, input_scratch, in);
    if (residual.rows > 0) ds_tile_read(&residual, col, count, residual_scratch, add);
    for (int i = 0; i < input->rows; i++) {
      const stage_run run = {in[i], bias, residual.rows > 0 ? add[i] : NULL,
                             task->staged ? stage_start + i * task->pitch + col : NULL,
                             sum.rows > 0 ? sum.row[i] + col * sum.bytes : NULL};
      sums[i] += stage(dtype, &run, count);
    }
  }
}

static void layer_norm_tile(const layer_norm_task *task, int64_t first_row, int rows, float *stage_start) {
  const ds_layer_norm_params *params = task->params;
  const float *row[DS_TILE_MAX_ROWS];
  double sums[DS_TILE_MAX_ROWS];
  ds_tile input, output;
  ds_tile_locate(&params->input, params->dtype, first_row, rows, &input);
  ds_tile_locate(&task->output, params->dtype, first_row, rows, &output);
  read_rows(task, &input, first_row, stage_start, row, sums);
  // A row at a time, while it is in the first cache.
  for (int i = 0; i < rows; i++) {
    const row_statistics statistics = statistics_of(row[i], sums[i], params->cols, params->epsilon);
    const normalize_run run = {row[i], params->gamma, params->beta, output.row[i],
                               ds_tile_next(&input, i, 0)};
    normalize(params->dtype, &run, statistics, params->cols);
  }
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
  if (task.shape.cols > SUM_COLS) task.shape.cols = SUM_COLS;
  // Float32 rows may lie at odd addresses.
  task.staged = params->dtype != DS_FLOAT32 || params->input.col_stride != 1 || params->bias != NULL ||
                params->residual.data != NULL || params->sum != NULL ||
                (uintptr_t)params->input.data % sizeof(float) != 0;
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
