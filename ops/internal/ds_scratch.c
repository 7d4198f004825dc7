#include "ds_scratch.h"

static size_t aligned(size_t bytes) {
  return (bytes + DS_SCRATCH_ALIGNMENT - 1) / DS_SCRATCH_ALIGNMENT * DS_SCRATCH_ALIGNMENT;
}

static int alive_together(const ds_scratch_buffer *a, const ds_scratch_buffer *b) {
  return a->first <= b->last && b->first <= a->last;
}

// The lowest offset at which `buffer` overlaps no placed buffer that lives at the same time. Each collision
// moves it past the other's end, so it ends after as many rounds as there are buffers.
static size_t lowest_free_offset(const ds_scratch_buffer *buffers, int count, uint64_t placed,
                                 const ds_scratch_buffer *buffer) {
  size_t offset = 0;
  for (int moved = 1; moved;) {
    moved = 0;
    for (int i = 0; i < count; i++) {
      const ds_scratch_buffer *other = &buffers[i];
      if (!(placed >> i & 1) || !alive_together(buffer, other)) continue;
      const size_t other_end = other->offset + aligned(other->bytes);
      if (offset < other_end && other->offset < offset + aligned(buffer->bytes)) {
        offset = other_end;
        moved = 1;
      }
    }
  }
  return offset;
}

// Most calls leave half of their buffers empty: those are in nobody's way.
static uint64_t place_empty(ds_scratch_buffer *buffers, int count) {
  uint64_t empty = 0;
  for (int i = 0; i < count; i++)
    if (buffers[i].bytes == 0) {
      buffers[i].offset = 0;
      empty |= (uint64_t)1 << i;
    }
  return empty;
}

static int largest_unplaced(const ds_scratch_buffer *buffers, int count, uint64_t placed) {
  int largest = -1;
  for (int i = 0; i < count; i++)
    if (!(placed >> i & 1) && (largest < 0 || buffers[i].bytes > buffers[largest].bytes)) largest = i;
  return largest;
}

size_t ds_scratch_plan(ds_scratch_buffer *buffers, int count) {
  const uint64_t empty = place_empty(buffers, count);
  uint64_t placed = 0;
  size_t total = 0;
  for (int i; (i = largest_unplaced(buffers, count, placed | empty)) >= 0;) {
    ds_scratch_buffer *buffer = &buffers[i];
    buffer->offset = lowest_free_offset(buffers, count, placed, buffer);
    placed |= (uint64_t)1 << i;
    const size_t end = buffer->offset + aligned(buffer->bytes);
    if (end > total) total = end;
  }
  return total;
}

size_t ds_scratch_workspace_bytes(const ds_services *services, ds_dtype dtype, int64_t rows, int64_t cols) {
  enum { LEAST_BYTES = 64 << 10, PARTS = 3 };
  const size_t most = services->linear_workspace_bytes;
  size_t bytes;
  if (dtype == DS_FLOAT32 ||
      __builtin_mul_overflow((size_t)rows, PARTS * sizeof(float) * (size_t)cols, &bytes))
    return most;
  if (bytes < LEAST_BYTES) bytes = LEAST_BYTES;
  return bytes < most ? bytes : most;
}
