// What is recorded, launched, kept and dropped, on a CUDA runtime that only takes notes.
#include "cuda/ds_cuda_device.h"
#include "cuda/recording_cuda.h"
#include <atomic>
#include <gtest/gtest.h>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

// What the runtime was asked to do. Graphs and streams are numbers. There is one for all tests, as the table
// of what was recorded outlives them.
struct runtime {
  uintptr_t next = 1;
  std::set<uintptr_t> streams, graphs, executables;
  std::vector<std::pair<uintptr_t, void *>> launches; // of a graph on a stream
  int relaxed = 0;
  bool captured = false;
  cudaError_t begin_error = cudaSuccess, end_error = cudaSuccess, launch_error = cudaSuccess;
  std::mutex mutex;
};
runtime *const now = new runtime;

template <typename Handle>
cudaError_t create(std::set<uintptr_t> *all, Handle *handle) {
  const std::lock_guard<std::mutex> guard(now->mutex);
  all->insert(now->next);
  *handle = reinterpret_cast<Handle>(now->next++);
  return cudaSuccess;
}

template <typename Handle>
cudaError_t destroy(std::set<uintptr_t> *all, Handle handle) {
  const std::lock_guard<std::mutex> guard(now->mutex);
  EXPECT_EQ(all->erase(reinterpret_cast<uintptr_t>(handle)), 1u);
  return cudaSuccess;
}

} // namespace

enum cudaStreamCaptureMode ds_cuda_begin_relaxed(void) {
  const std::lock_guard<std::mutex> guard(now->mutex);
  now->relaxed++;
  return cudaStreamCaptureModeGlobal;
}
void ds_cuda_end_relaxed(enum cudaStreamCaptureMode previous) {
  const std::lock_guard<std::mutex> guard(now->mutex);
  now->relaxed--;
  EXPECT_EQ(previous, cudaStreamCaptureModeGlobal);
}
int ds_cuda_is_captured(cudaStream_t) {
  return now->captured;
}
cudaError_t cudaGetLastError(void) {
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  EXPECT_EQ(flags, static_cast<unsigned>(cudaStreamNonBlocking));
  return create(&now->streams, stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return destroy(&now->streams, stream);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, enum cudaStreamCaptureMode mode) {
  EXPECT_EQ(mode, cudaStreamCaptureModeRelaxed);
  EXPECT_GT(now->relaxed, 0);
  return now->begin_error;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
  *graph = nullptr;
  return now->end_error == cudaSuccess ? create(&now->graphs, graph) : now->end_error;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t, unsigned long long) {
  return create(&now->executables, executable);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return destroy(&now->graphs, graph);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return destroy(&now->executables, executable);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const std::lock_guard<std::mutex> guard(now->mutex);
  EXPECT_GT(now->relaxed, 0);
  EXPECT_EQ(now->executables.count(reinterpret_cast<uintptr_t>(executable)), 1u);
  if (now->launch_error == cudaSuccess)
    now->launches.emplace_back(reinterpret_cast<uintptr_t>(executable), stream);
  return now->launch_error;
}

namespace {

class Recording : public testing::Test {
protected:
  struct key {
    uint64_t test, number;
  };

  void SetUp() override {
    now->launches.clear();
    now->captured = false;
    now->begin_error = now->end_error = now->launch_error = cudaSuccess;
    first_ = now->next;
    setenv(DS_RECORDING_VARIABLE, "1", 1);
  }

  // Graphs of this test that there still are.
  size_t graphs_kept() const {
    return static_cast<size_t>(std::distance(now->executables.lower_bound(first_), now->executables.end()));
  }

  // That no other test has, with `number` of the test's own.
  static key key_of(uint64_t number) {
    const auto *info = testing::UnitTest::GetInstance()->current_test_info();
    return {std::hash<std::string>()(info->name()), number};
  }

  // How work was to be enqueued, and then enqueued, as callers do it.
  ds_cuda_recording_state enqueue(const key &of, bool replayable = true) {
    void *const own = &works;
    void *stream = own;
    ds_cuda_recording recording;
    EXPECT_EQ(ds_recording_begin(&of, sizeof of, &stream, &recording), DS_OK) << ds_error_message();
    const ds_cuda_recording_state state = recording.state;
    EXPECT_EQ(stream == own, state != DS_CUDA_WORK_RECORDED);
    if (state == DS_CUDA_WORK_DONE) return state;
    works++;
    ds_recording_end(&recording, replayable, &stream);
    EXPECT_EQ(stream, own);
    if (recording.state == DS_CUDA_WORK_PLAIN) works++;
    return state;
  }

  void expect_states(const key &of, const std::vector<ds_cuda_recording_state> &states) {
    for (const ds_cuda_recording_state expected : states) EXPECT_EQ(enqueue(of), expected);
  }

  std::atomic<int> works{0};

private:
  uintptr_t first_ = 0; // handle of this test
};

const std::vector<ds_cuda_recording_state> from_the_first = {
    DS_CUDA_WORK_PLAIN, DS_CUDA_WORK_PLAIN, DS_CUDA_WORK_RECORDED, DS_CUDA_WORK_DONE, DS_CUDA_WORK_DONE};

TEST_F(Recording, BeginsAtTheThirdSight) {
  expect_states(key_of(0), from_the_first);
  EXPECT_EQ(works, 3);
  ASSERT_EQ(now->launches.size(), 3u); // when it was recorded, and twice since
  for (const auto &[graph, stream] : now->launches) {
    EXPECT_EQ(graph, now->launches[0].first);
    EXPECT_EQ(stream, &works);
  }
  EXPECT_TRUE(now->streams.empty());
  EXPECT_TRUE(now->graphs.empty());
  EXPECT_EQ(graphs_kept(), 1u);
  EXPECT_EQ(now->relaxed, 0);
}

TEST_F(Recording, TellsKeysApart) {
  for (const ds_cuda_recording_state expected : from_the_first)
    for (uint64_t number = 0; number < 3; number++) EXPECT_EQ(enqueue(key_of(number)), expected);
  EXPECT_EQ(graphs_kept(), 3u);
}

TEST_F(Recording, LeavesOutWhatIsNotReplayable) {
  for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(0), false), DS_CUDA_WORK_PLAIN);
  for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(0)), DS_CUDA_WORK_PLAIN);
  EXPECT_EQ(works, 10);
}

TEST_F(Recording, WorkThatFailsWhileItIsRecordedIsEnqueued) {
  for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(0), i != 2), from_the_first[i < 3 ? i : 0]);
  EXPECT_EQ(works, 6);
  EXPECT_TRUE(now->launches.empty());
  EXPECT_EQ(graphs_kept(), 0u);
  EXPECT_TRUE(now->streams.empty());
}

TEST_F(Recording, GivesUpWhatCannotBeCaptured) {
  now->begin_error = cudaErrorStreamCaptureUnsupported;
  for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(0)), DS_CUDA_WORK_PLAIN);
  EXPECT_EQ(works, 5);
  now->begin_error = cudaSuccess;
  now->end_error = cudaErrorStreamCaptureInvalidated;
  for (size_t i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(1)), from_the_first[i < 3 ? i : 0]);
  EXPECT_EQ(works, 5 + 6);
  EXPECT_TRUE(now->streams.empty());
  EXPECT_TRUE(now->graphs.empty());
}

TEST_F(Recording, GivesUpAGraphThatCannotBeLaunched) {
  expect_states(key_of(0), from_the_first);
  now->launch_error = cudaErrorLaunchFailure;
  for (int i = 0; i < 3; i++) EXPECT_EQ(enqueue(key_of(0)), DS_CUDA_WORK_PLAIN);
  EXPECT_EQ(graphs_kept(), 0u);
  EXPECT_EQ(works, 3 + 3);
}

TEST_F(Recording, StandsAsideWhileTheStreamIsCaptured) {
  expect_states(key_of(0), from_the_first);
  now->captured = true;
  for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(0)), DS_CUDA_WORK_PLAIN);
  EXPECT_EQ(now->launches.size(), 3u);
}

TEST_F(Recording, KeepsSoManyGraphs) {
  constexpr uint64_t most = DS_RECORDING_SETS * DS_RECORDING_WAYS;
  for (uint64_t number = 0; number < 4 * most; number++) expect_states(key_of(number), from_the_first);
  EXPECT_LE(graphs_kept(), most);
  EXPECT_GT(graphs_kept(), most / 2);
  EXPECT_EQ(enqueue(key_of(4 * most - 1)), DS_CUDA_WORK_DONE);
  EXPECT_EQ(enqueue(key_of(0)), DS_CUDA_WORK_PLAIN);
}

TEST_F(Recording, ServesThreadsAtOnce) {
  constexpr int count = 4, rounds = 200;
  std::vector<std::thread> threads;
  const key shared = key_of(0);
  const key own[count] = {key_of(1), key_of(2), key_of(3), key_of(4)};
  for (int i = 0; i < count; i++)
    threads.emplace_back([&, i] {
      for (int round = 0; round < rounds; round++) {
        enqueue(shared);
        enqueue(own[i]);
      }
    });
  for (std::thread &thread : threads) thread.join();
  EXPECT_EQ(graphs_kept(), 1u + count);
  EXPECT_TRUE(now->streams.empty());
  // Each call was either enqueued or launched; what is being recorded is both.
  EXPECT_EQ(static_cast<size_t>(works) + now->launches.size(), 2u * count * rounds + 1 + count);
}

TEST_F(Recording, FollowsTheEnvironment) {
  expect_states(key_of(0), from_the_first);
  for (const char *value : {"0", ""}) {
    setenv(DS_RECORDING_VARIABLE, value, 1);
    EXPECT_EQ(enqueue(key_of(0)), DS_CUDA_WORK_PLAIN);
    for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(1)), DS_CUDA_WORK_PLAIN);
  }
  setenv(DS_RECORDING_VARIABLE, "yes", 1);
  ds_cuda_recording recording;
  void *stream = nullptr;
  const key of = key_of(0);
  EXPECT_EQ(ds_recording_begin(&of, sizeof of, &stream, &recording), DS_E_VALUE);
  EXPECT_STREQ(ds_error_message(), "DS_DIFFUSERS_RECORDING is 'yes', must be 0 or 1");
  unsetenv(DS_RECORDING_VARIABLE);
  EXPECT_EQ(enqueue(key_of(0)), DS_CUDA_WORK_PLAIN);
  setenv(DS_RECORDING_VARIABLE, "1", 1);
  EXPECT_EQ(enqueue(key_of(0)), DS_CUDA_WORK_DONE);
}

} // namespace
