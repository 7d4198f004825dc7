// How a CPU kernel spreads its rows over threads. The host owns the threads (libtorch's pool, when called
// from torch); a kernel only says how its range may be cut.
#ifndef DS_PARALLEL_H
#define DS_PARALLEL_H

#include "ds_status.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*ds_range_fn)(int64_t begin, int64_t end, void *argument);

// Calls `range` on pieces that cover [begin, end) once, each of at least `grain` items but for the last, from
// any threads, and returns when all are done.
typedef ds_status (*ds_parallel_for_fn)(int64_t begin, int64_t end, int64_t grain, ds_range_fn range,
                                        void *argument);

// As above through `parallel_for`, or on the calling thread where that is NULL.
static inline ds_status ds_parallel_for(ds_parallel_for_fn parallel_for, int64_t begin, int64_t end,
                                        int64_t grain, ds_range_fn range, void *argument) {
  if (begin >= end) return DS_OK;
  if (parallel_for != NULL) return parallel_for(begin, end, grain, range, argument);
  range(begin, end, argument);
  return DS_OK;
}

#ifdef __cplusplus
}
#endif
#endif
