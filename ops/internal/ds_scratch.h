// Places buffers with known lifetimes in one block of memory, so that buffers that are never alive together
// share it.
#ifndef DS_SCRATCH_H
#define DS_SCRATCH_H

#include "ds_services.h"
#include <stddef.h>

// A buffer is alive from step `first` to step `last`, both included; steps are the caller's numbering.
typedef struct ds_scratch_buffer {
  size_t bytes; // 0: takes no place
  int first;
  int last;
  size_t offset; // result, in bytes from the start of the block
} ds_scratch_buffer;

// Sets every offset so that no two buffers that are alive at a common step overlap, and returns the size of
// the block. First fit, largest buffers first: not always the least possible, but for a handful of buffers
// close to it. At most 64 buffers.
size_t ds_scratch_plan(ds_scratch_buffer *buffers, int count);

// The workspace, in bytes, of a product of `rows` rows. Where elements have 16 bits it takes three parts of a
// result of `cols` columns in float32, since products of few rows sum in parts, and a copy of a misaligned
// bias. float32 products are as exact as the way in which they are cut into parts: they get all that the
// service has use for.
size_t ds_scratch_workspace_bytes(const ds_services *services, ds_dtype dtype, int64_t rows, int64_t cols);

#endif
