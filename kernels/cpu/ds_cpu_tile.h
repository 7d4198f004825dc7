// Tiles: some neighbouring rows, and of them some neighbouring columns, of a ds_rows view, as float32.
//
// Rows of float32 with column stride 1 are used where they lie. All others are copied into scratch:
// converted, and for other column strides gathered so that the elements of neighbouring rows, which may share
// cache lines, are touched together. In an NCHW tensor seen as pixels × channels a tile of as many rows as a
// cache line has elements reads each line once.
#ifndef DS_CPU_TILE_H
#define DS_CPU_TILE_H

#include "ds_cpu_convert.h"
#include "ds_parallel.h"
#include "ds_rows.h"
#include <stddef.h>

#define DS_TILE_MAX_ROWS 32
#define DS_TILE_MAX_COLS 2048
// Floats of scratch that a tile of any shape needs. The pitch exceeds the columns by a cache line at least,
// since rows a power of two apart would meet in the same cache sets.
#define DS_TILE_FLOATS (32 * (128 + 16))

typedef struct ds_tile_shape {
  int rows;
  int cols;
  int pitch; // floats from one row of scratch to the next
} ds_tile_shape;

// Where some neighbouring rows of one operand begin.
typedef struct ds_tile {
  ds_dtype dtype;
  int bytes;  // of an element
  int direct; // rows can be used as float arrays where they lie
  int rows;   // none for an operand that is absent
  int64_t col_stride;
  int64_t next;                // bytes from a row to the same row of the tile behind this one
  char *row[DS_TILE_MAX_ROWS]; // first element of each
} ds_tile;

// Elements from `first` on, of `count` in all, that a piece of at most `most` takes.
static inline int64_t ds_piece(int64_t count, int64_t first, int64_t most) {
  return count - first < most ? count - first : most;
}

// Whether a view's rows can be used as float arrays where they lie: tensors may start at odd addresses.
static inline int ds_tile_is_direct(const ds_rows *view, ds_dtype dtype) {
  return dtype == DS_FLOAT32 && view->col_stride == 1 && (uintptr_t)view->data % sizeof(float) == 0;
}

// The shape that suits up to three operands of rows × cols (data NULL: absent). Rows that lie whole are taken
// as long as possible, to be read in the order of memory, and as many as share scratch; others as many as
// share a cache line.
static inline ds_tile_shape ds_tile_shape_for(ds_dtype dtype, int64_t cols, const ds_rows *a,
                                              const ds_rows *b, const ds_rows *c) {
  const ds_rows *operands[] = {a, b, c};
  int direct = 1, contiguous = 1;
  for (int i = 0; i < 3; i++) {
    if (operands[i]->data == NULL) continue;
    direct = direct && ds_tile_is_direct(operands[i], dtype);
    contiguous = contiguous && operands[i]->col_stride == 1;
  }
  const int width = cols < DS_TILE_MAX_COLS ? (int)cols : DS_TILE_MAX_COLS;
  if (direct) return (ds_tile_shape){width < 256 ? DS_TILE_MAX_ROWS : 8 * 1024 / width, width, 0};
  if (!contiguous) return (ds_tile_shape){dtype == DS_FLOAT32 ? 16 : 32, 128, 128 + 16};
  const int fitting = DS_TILE_MAX_COLS / width;
  return (ds_tile_shape){fitting < 8 ? fitting : 8, width, (width + 15) / 16 * 16 + 16};
}

static inline ds_tile ds_tile_empty(const ds_rows *view, ds_dtype dtype, int64_t col_stride) {
  ds_tile tile;
  tile.dtype = dtype;
  tile.bytes = dtype == DS_FLOAT32 ? 4 : 2;
  tile.direct = dtype == DS_FLOAT32 && col_stride == 1 && (uintptr_t)view->data % sizeof(float) == 0;
  tile.rows = 0;
  tile.next = 0;
  tile.col_stride = col_stride;
  return tile;
}

DS_NOT_INLINE ds_tile ds_tile_locate(const ds_rows *view, ds_dtype dtype, int64_t first_row, int rows) {
  ds_tile tile = ds_tile_empty(view, dtype, view->col_stride);
  if (view->data == NULL) return tile;
  tile.rows = rows;
  const int64_t inner = view->sizes[view->dims - 1];
  const int64_t step = view->strides[view->dims - 1] * tile.bytes;
  for (int i = 0; i < rows;) {
    char *row = (char *)view->data + ds_rows_offset(view, first_row + i) * tile.bytes;
    for (int64_t left = inner - (first_row + i) % inner; left > 0 && i < rows; left--, row += step)
      tile.row[i++] = row;
  }
  tile.next = ((char *)view->data - tile.row[0]) + ds_rows_offset(view, first_row + rows) * tile.bytes;
  return tile;
}

// Columns in place of rows, for rows that lie one element apart from `row` on: the tile's column i is row
// row + i of the view.
DS_NOT_INLINE ds_tile ds_tile_locate_columns(const ds_rows *view, ds_dtype dtype, int64_t row,
                                             int64_t first_col, int cols) {
  ds_tile tile = ds_tile_empty(view, dtype, 1);
  if (view->data == NULL) return tile;
  const int64_t offset = ds_rows_offset(view, row);
  tile.rows = cols;
  for (int i = 0; i < cols; i++)
    tile.row[i] = (char *)view->data + (offset + (first_col + i) * view->col_stride) * tile.bytes;
  return tile;
}

#define DS_BLOCK_COLS 16

// Gathers (to_block) or scatters a block of at most DS_BLOCK_COLS columns, whose rows lie packed in `block`.
// Columns are the outer loop where the next row is nearer than the next column, so that a cache line is
// finished before the next, which may fall into the same cache set, is touched.
static inline void ds_tile_copy_block(const ds_tile *tile, int64_t first_col, int cols, char *block,
                                      size_t bytes, int to_block) {
  const int64_t step = tile->col_stride * (int64_t)bytes;
  const ptrdiff_t row_step = tile->rows > 1 ? tile->row[1] - tile->row[0] : 0;
  const int rows_inside = (row_step < 0 ? -row_step : row_step) < (step < 0 ? -step : step);
  const int outer_count = rows_inside ? cols : tile->rows;
  const int inner_count = rows_inside ? tile->rows : cols;
  for (int outer = 0; outer < outer_count; outer++)
    for (int inner = 0; inner < inner_count; inner++) {
      const int row = rows_inside ? inner : outer;
      const int col = rows_inside ? outer : inner;
      char *element = tile->row[row] + (first_col + col) * step;
      char *packed = block + (size_t)(row * DS_BLOCK_COLS + col) * bytes;
      if (to_block)
        memcpy(packed, element, bytes);
      else
        memcpy(element, packed, bytes);
    }
}

// Element sizes as constants, so that each copy is one load and one store.
DS_NOT_INLINE void ds_tile_gather_block(const ds_tile *tile, int64_t first_col, int cols, char *block) {
  if (tile->dtype == DS_FLOAT32)
    ds_tile_copy_block(tile, first_col, cols, block, 4, 1);
  else
    ds_tile_copy_block(tile, first_col, cols, block, 2, 1);
}

DS_NOT_INLINE void ds_tile_scatter_block(const ds_tile *tile, int64_t first_col, int cols, char *block) {
  if (tile->dtype == DS_FLOAT32)
    ds_tile_copy_block(tile, first_col, cols, block, 4, 0);
  else
    ds_tile_copy_block(tile, first_col, cols, block, 2, 0);
}

// Copies columns first_col … first_col + cols - 1 to scratch, row i at scratch + i · pitch.
DS_NOT_INLINE void ds_tile_copy_in(const ds_tile *tile, int64_t first_col, int64_t cols, float *scratch,
                                   int64_t pitch) {
  if (tile->col_stride == 1) {
    for (int i = 0; i < tile->rows; i++)
      ds_load_run(tile->dtype, tile->row[i] + first_col * tile->bytes, cols, scratch + i * pitch);
    return;
  }
  char block[DS_TILE_MAX_ROWS * DS_BLOCK_COLS * sizeof(float)];
  for (int64_t col = 0; col < cols; col += DS_BLOCK_COLS) {
    const int count = (int)ds_piece(cols, col, DS_BLOCK_COLS);
    ds_tile_gather_block(tile, first_col + col, count, block);
    for (int i = 0; i < tile->rows; i++)
      ds_load_run(tile->dtype, block + (ptrdiff_t)i * DS_BLOCK_COLS * tile->bytes, count,
                  scratch + i * pitch + col);
  }
}

// Asks for the columns of row `i` in the next tile, to be read while this one is worked on: a processor does
// not look so far ahead across the passes over a tile. Behind the last tile it asks in vain, which does no
// harm.
static inline void ds_tile_prefetch_next(const ds_tile *tile, int i, int64_t first_col, int64_t cols) {
  if (tile->col_stride != 1 || i >= tile->rows) return;
  const uintptr_t start = (uintptr_t)tile->row[i] + (uintptr_t)(tile->next + first_col * tile->bytes);
  const uintptr_t end = start + (uintptr_t)(cols * tile->bytes);
  for (uintptr_t line = start; line < end; line += 64) __builtin_prefetch((const void *)line);
}

// Points row[i] at the columns from first_col on of each row: in place, or copied to scratch.
static inline void ds_tile_read(const ds_tile *tile, int64_t first_col, int64_t cols, float *scratch,
                                int64_t pitch, const float **row) {
  if (!tile->direct) ds_tile_copy_in(tile, first_col, cols, scratch, pitch);
  for (int i = 0; i < tile->rows; i++)
    row[i] = tile->direct ? (const float *)(const void *)tile->row[i] + first_col : scratch + i * pitch;
}

// Points row[i] at where results are to be put: in place, or in scratch, for ds_tile_finish_write.
static inline void ds_tile_start_write(const ds_tile *tile, int64_t first_col, float *scratch, int64_t pitch,
                                       float **row) {
  for (int i = 0; i < tile->rows; i++)
    row[i] = tile->direct ? (float *)(void *)tile->row[i] + first_col : scratch + i * pitch;
}

// Rounds and stores the rows that were put into scratch.
static inline void ds_tile_finish_write(const ds_tile *tile, int64_t first_col, int64_t cols,
                                        float *const *row) {
  if (tile->direct) return;
  if (tile->col_stride == 1) {
    for (int i = 0; i < tile->rows; i++)
      ds_store_run(tile->dtype, row[i], cols, tile->row[i] + first_col * tile->bytes);
    return;
  }
  char block[DS_TILE_MAX_ROWS * DS_BLOCK_COLS * sizeof(float)];
  for (int64_t col = 0; col < cols; col += DS_BLOCK_COLS) {
    const int count = (int)ds_piece(cols, col, DS_BLOCK_COLS);
    for (int i = 0; i < tile->rows; i++)
      ds_store_run(tile->dtype, row[i] + col, count, block + (ptrdiff_t)i * DS_BLOCK_COLS * tile->bytes);
    ds_tile_scatter_block(tile, first_col + col, count, block);
  }
}

// For ds_vector_read: the sum of an absent bias leaves every number as it is, the negative zero included.
static const float ds_no_bias = -0.0f;

// `cols` elements of a contiguous vector from first_col on; where there is no vector, `neutral` repeated.
static inline const float *ds_vector_read(ds_dtype dtype, const void *vector, int64_t first_col, int64_t cols,
                                          float neutral, float *scratch) {
  if (vector == NULL) {
    for (int64_t i = 0; i < cols; i++) scratch[i] = neutral;
    return scratch;
  }
  const char *start = (const char *)vector + first_col * (dtype == DS_FLOAT32 ? 4 : 2);
  if (dtype == DS_FLOAT32 && (uintptr_t)start % sizeof(float) == 0) return (const float *)(const void *)start;
  ds_load_run(dtype, start, cols, scratch);
  return scratch;
}

// Calls `range` on tiles that cover rows × cols, both at least 1: tile i begins at row i · tile_rows. As many
// go together as are worth another thread.
static inline ds_status ds_parallel_for_tiles(ds_parallel_for_fn parallel_for, int64_t rows, int64_t cols,
                                              int64_t tile_rows, ds_range_fn range, void *task) {
  const int64_t worthwhile = 32768; // elements
  const int64_t tiles = (rows - 1) / tile_rows + 1;
  const int64_t grain = cols >= worthwhile / tile_rows ? 1 : (worthwhile - 1) / (tile_rows * cols) + 1;
  return ds_parallel_for(parallel_for, 0, tiles, grain, range, task);
}

#endif
