// Tiles: some neighbouring rows of a ds_rows view, of which some neighbouring columns are worked on at a
// time.
//
// Rows with column stride 1 are used where they lie. Others are copied: gathered so that the elements of
// neighbouring rows, which may share cache lines, are touched together. In an NCHW tensor seen as pixels ×
// channels a tile of as many rows as a cache line has elements reads each line once.
#ifndef DS_CPU_TILE_H
#define DS_CPU_TILE_H

#include "ds_cpu_vector.h"
#include "ds_parallel.h"
#include "ds_rows.h"
#include <stddef.h>

#define DS_TILE_MAX_ROWS 32
#define DS_TILE_GATHERED_COLS 128
// Bytes from one gathered row to the next. They exceed the columns by a cache line, since rows a power of two
// apart would meet in the same cache sets.
#define DS_TILE_PITCH(bytes) (DS_TILE_GATHERED_COLS * (bytes) + 64)
// Of scratch that any tile needs: 16 rows of float32, or 32 of a 16-bit type.
#define DS_TILE_BYTES (32 * DS_TILE_PITCH(2))

typedef struct ds_tile_shape {
  int rows;
  int64_t cols; // that are worked on at a time
} ds_tile_shape;

// Where some neighbouring rows of one operand begin.
typedef struct ds_tile {
  int bytes; // of an element
  int rows;  // none for an operand that is absent
  int64_t col_stride;
  int64_t next;                // bytes from a row to the same row of the tile behind this one
  char *row[DS_TILE_MAX_ROWS]; // first element of each
} ds_tile;

// Elements from `first` on, of `count` in all, that a piece of at most `most` takes.
static inline int64_t ds_piece(int64_t count, int64_t first, int64_t most) {
  return count - first < most ? count - first : most;
}

static inline int ds_rows_are_whole(const ds_rows *view) {
  return view->data == NULL || view->col_stride == 1;
}

// The shape that suits up to three operands of rows × cols (data NULL: absent). Rows that lie whole are read
// in the order of memory, as many as make a tile worth its cost; others as many as share a cache line.
static inline ds_tile_shape ds_tile_shape_for(ds_dtype dtype, int64_t cols, const ds_rows *a,
                                              const ds_rows *b, const ds_rows *c) {
  const int64_t elements = 8192;
  if (!ds_rows_are_whole(a) || !ds_rows_are_whole(b) || !ds_rows_are_whole(c))
    return (ds_tile_shape){dtype == DS_FLOAT32 ? 16 : 32, DS_TILE_GATHERED_COLS};
  const int64_t fitting = elements / cols;
  return (ds_tile_shape){fitting < 1                  ? 1
                         : fitting < DS_TILE_MAX_ROWS ? (int)fitting
                                                      : DS_TILE_MAX_ROWS,
                         cols};
}

DS_NOT_INLINE void ds_tile_locate(const ds_rows *view, ds_dtype dtype, int64_t first_row, int rows,
                                  ds_tile *tile) {
  tile->bytes = ds_element_bytes(dtype);
  tile->rows = 0;
  tile->next = 0;
  tile->col_stride = view->col_stride;
  if (view->data == NULL) return;
  tile->rows = rows;
  const int64_t inner = view->sizes[view->dims - 1];
  const int64_t step = view->strides[view->dims - 1] * tile->bytes;
  for (int i = 0; i < rows;) {
    char *row = (char *)view->data + ds_rows_offset(view, first_row + i) * tile->bytes;
    for (int64_t left = inner - (first_row + i) % inner; left > 0 && i < rows; left--, row += step)
      tile->row[i++] = row;
  }
  tile->next = ((char *)view->data - tile->row[0]) + ds_rows_offset(view, first_row + rows) * tile->bytes;
}

// Gathers columns to scratch, or scatters them from there. Columns are the outer loop where the next row is
// nearer than the next column, so that a cache line is finished before the next, which may fall into the same
// cache set, is touched.
DS_INLINE void ds_tile_copy(const ds_tile *tile, int64_t first_col, int cols, char *scratch, size_t bytes,
                            int to_scratch) {
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
      char *copy = scratch + (size_t)row * DS_TILE_PITCH(bytes) + (size_t)col * bytes;
      if (to_scratch)
        memcpy(copy, element, bytes);
      else
        memcpy(element, copy, bytes);
    }
}

// Element sizes as constants, so that each copy is one load and one store.
DS_NOT_INLINE void ds_tile_gather(const ds_tile *tile, int64_t first_col, int cols, char *scratch) {
  if (tile->bytes == 4)
    ds_tile_copy(tile, first_col, cols, scratch, 4, 1);
  else
    ds_tile_copy(tile, first_col, cols, scratch, 2, 1);
}

DS_NOT_INLINE void ds_tile_scatter(const ds_tile *tile, int64_t first_col, int cols, char *scratch) {
  if (tile->bytes == 4)
    ds_tile_copy(tile, first_col, cols, scratch, 4, 0);
  else
    ds_tile_copy(tile, first_col, cols, scratch, 2, 0);
}

static inline void ds_tile_point(const ds_tile *tile, int64_t first_col, char *scratch, char **row) {
  for (int i = 0; i < tile->rows; i++)
    row[i] = tile->col_stride == 1 ? tile->row[i] + first_col * tile->bytes
                                   : scratch + (ptrdiff_t)i * DS_TILE_PITCH(tile->bytes);
}

// Points row[i] at the columns from first_col on of each row, one behind the other: in place, or gathered,
// where `cols` is at most DS_TILE_GATHERED_COLS, in DS_TILE_BYTES of scratch.
static inline void ds_tile_read(const ds_tile *tile, int64_t first_col, int64_t cols, char *scratch,
                                char **row) {
  if (tile->col_stride != 1) ds_tile_gather(tile, first_col, (int)cols, scratch);
  ds_tile_point(tile, first_col, scratch, row);
}

// Points row[i] at where results are to be put: in place, or in scratch, for ds_tile_finish_write.
static inline void ds_tile_start_write(const ds_tile *tile, int64_t first_col, char *scratch, char **row) {
  ds_tile_point(tile, first_col, scratch, row);
}

static inline void ds_tile_finish_write(const ds_tile *tile, int64_t first_col, int64_t cols, char *scratch) {
  if (tile->col_stride != 1) ds_tile_scatter(tile, first_col, (int)cols, scratch);
}

// Where the same row of the next tile lies, to be asked for while this one is worked on: a processor does not
// look so far ahead across the passes over a tile. Behind the last tile, where nothing is, asking does no
// harm. NULL where rows are gathered.
static inline const char *ds_tile_next(const ds_tile *tile, int i, int64_t first_col) {
  if (tile->col_stride != 1 || i >= tile->rows) return NULL;
  return (const char *)((uintptr_t)tile->row[i] + (uintptr_t)(tile->next + first_col * tile->bytes));
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
