// Stand-ins for a host's thread pool.
#ifndef DS_TESTS_PARALLEL_H
#define DS_TESTS_PARALLEL_H

#include "ds_parallel.h"
#include <algorithm>
#include <thread>
#include <vector>

namespace ds_tests {

// Pieces of the smallest size allowed, from the last to the first.
inline ds_status parallel_backwards(int64_t begin, int64_t end, int64_t grain, ds_range_fn range,
                                    void *argument) {
  const int64_t pieces = (end - begin + grain - 1) / grain;
  for (int64_t piece = pieces - 1; piece >= 0; piece--)
    range(begin + piece * grain, std::min(end, begin + (piece + 1) * grain), argument);
  return DS_OK;
}

// Pieces that a kernel does not expect: of any size down to one item, each in its own thread.
inline ds_status parallel_threads(int64_t begin, int64_t end, int64_t, ds_range_fn range, void *argument) {
  std::vector<std::thread> threads;
  int64_t size = 1;
  for (int64_t start = begin; start < end; start += size) {
    size = threads.size() < 7 ? static_cast<int64_t>(threads.size()) + 1 : end - start;
    threads.emplace_back(range, start, std::min(end, start + size), argument);
  }
  for (std::thread &thread : threads) thread.join();
  return DS_OK;
}

inline ds_status parallel_failure(int64_t, int64_t, int64_t, ds_range_fn, void *) {
  return ds_error(DS_E_SERVICE, "no threads today");
}

} // namespace ds_tests

#endif
