// Work with a key: enqueued, recorded, launched again, always with the results of the work itself.
#include "cuda/recording_cuda.h"
#include "cuda_cases.h"
#include <functional>
#include <thread>

namespace ds_tests {
namespace {

class Recording : public cuda_test {
protected:
  void SetUp() override {
    cuda_test::SetUp();
    setenv(DS_RECORDING_VARIABLE, "1", 1);
  }

  struct key {
    uint64_t test, number;
  };

  // A key that no other test has, with `number` of the test's own.
  static key key_of(uint64_t number) {
    const auto *info = testing::UnitTest::GetInstance()->current_test_info();
    return {std::hash<std::string>()(info->name()), number};
  }

  // How the work of the key was to be enqueued, and then enqueued, in the way that callers do.
  ds_cuda_recording_state enqueue(const key &of, const std::function<bool(cudaStream_t)> &work,
                                  bool replayable = true) {
    ds_cuda_recording recording;
    void *on = stream;
    EXPECT_EQ(module->recording_begin(&of, sizeof of, &on, &recording), DS_OK) << module->error_message();
    const ds_cuda_recording_state state = recording.state;
    EXPECT_EQ(on == stream, state != DS_CUDA_WORK_RECORDED);
    if (state == DS_CUDA_WORK_DONE) return state;
    const bool succeeded = work(static_cast<cudaStream_t>(on));
    module->recording_end(&recording, succeeded && replayable, &on);
    EXPECT_EQ(on, stream);
    EXPECT_TRUE(recording.state == DS_CUDA_WORK_DONE || work(stream));
    return state;
  }

  std::function<bool(cudaStream_t)> norm_of(const cuda_layer_norm_case &test) {
    return [&test, this](cudaStream_t on) { return module->layer_norm(&test.params, on) == DS_OK; };
  }

  // Overwrites the output and checks that it is there again.
  ds_cuda_recording_state enqueue_and_check(const key &of, cuda_layer_norm_case &test) {
    test.copies.send();
    const ds_cuda_recording_state state = enqueue(of, norm_of(test));
    wait();
    test.copies.fetch();
    test.expect_result();
    return state;
  }
};

constexpr ds_cuda_recording_state from_the_first[] = {
    DS_CUDA_WORK_PLAIN, DS_CUDA_WORK_PLAIN, DS_CUDA_WORK_RECORDED, DS_CUDA_WORK_DONE, DS_CUDA_WORK_DONE};

TEST_F(Recording, BeginsAtTheThirdSight) {
  cuda_layer_norm_case test(DS_FLOAT16, {.rows = 40, .cols = 320});
  for (const ds_cuda_recording_state expected : from_the_first)
    EXPECT_EQ(enqueue_and_check(key_of(0), test), expected);
}

TEST_F(Recording, ReadsWhatTheMemoryHoldsThen) {
  cuda_layer_norm_case test(DS_FLOAT16, {.rows = 40, .cols = 320});
  for (int round = 0; round < 6; round++) {
    for (int64_t row = 0; row < test.input.rows(); row++)
      for (int64_t col = 0; col < test.input.cols(); col++)
        test.input.write(row, col, 0.25 * static_cast<double>((row * 7 + col * 3 + round) % 11 - 5));
    enqueue_and_check(key_of(0), test);
  }
}

TEST_F(Recording, TellsKeysApart) {
  cuda_layer_norm_case first(DS_FLOAT16, {.rows = 40, .cols = 320}),
      second(DS_FLOAT16, {.rows = 7, .cols = 64});
  for (const ds_cuda_recording_state expected : from_the_first) {
    EXPECT_EQ(enqueue_and_check(key_of(1), first), expected);
    EXPECT_EQ(enqueue_and_check(key_of(2), second), expected);
  }
}

TEST_F(Recording, LeavesOutWhatIsNotReplayable) {
  cuda_layer_norm_case test(DS_FLOAT16, {.rows = 4, .cols = 32});
  for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(0), norm_of(test), false), DS_CUDA_WORK_PLAIN);
  for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(0), norm_of(test)), DS_CUDA_WORK_PLAIN);
}

// Work that fails while it is recorded, or does what cannot be recorded, is enqueued as ever.
TEST_F(Recording, GivesUpWhatCannotBeRecorded) {
  cuda_layer_norm_case test(DS_FLOAT16, {.rows = 4, .cols = 32});
  for (uint64_t number = 0; number < 2; number++) {
    for (int i = 0; i < 6; i++) {
      test.copies.send();
      const auto work = [&](cudaStream_t on) {
        if (on != stream && number == 0) return false;
        if (on != stream) cudaStreamSynchronize(on); // makes the capture invalid
        cudaGetLastError();
        return module->layer_norm(&test.params, on) == DS_OK || on != stream;
      };
      EXPECT_EQ(enqueue(key_of(number), work), i == 2 ? DS_CUDA_WORK_RECORDED : DS_CUDA_WORK_PLAIN);
      wait();
      test.copies.fetch();
      test.expect_result();
    }
  }
}

TEST_F(Recording, StandsAsideWhileTheStreamIsCaptured) {
  cuda_layer_norm_case test(DS_FLOAT16, {.rows = 40, .cols = 320});
  for (int i = 0; i < 4; i++) enqueue_and_check(key_of(0), test);
  test.copies.send();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  EXPECT_EQ(enqueue(key_of(0), norm_of(test)), DS_CUDA_WORK_PLAIN);
  check_cuda(cudaStreamEndCapture(stream, &graph));
  check_cuda(cudaGraphInstantiate(&executable, graph, 0));
  check_cuda(cudaGraphLaunch(executable, stream));
  wait();
  test.copies.fetch();
  test.expect_result();
  check_cuda(cudaGraphExecDestroy(executable));
  check_cuda(cudaGraphDestroy(graph));
}

TEST_F(Recording, GoesOnWhileAnotherStreamIsCaptured) {
  cuda_layer_norm_case test(DS_FLOAT16, {.rows = 40, .cols = 320});
  cudaStream_t captured = nullptr;
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&captured, cudaStreamNonBlocking));
  test.copies.send();
  check_cuda(cudaStreamBeginCapture(captured, cudaStreamCaptureModeGlobal));
  std::thread([&] {
    for (const ds_cuda_recording_state expected : from_the_first)
      EXPECT_EQ(enqueue(key_of(0), norm_of(test)), expected);
  }).join();
  check_cuda(cudaStreamEndCapture(captured, &graph));
  wait();
  test.copies.fetch();
  test.expect_result();
  check_cuda(cudaGraphDestroy(graph));
  check_cuda(cudaStreamDestroy(captured));
}

// More keys than are kept, each until it is recorded, while those that make place may still be running.
TEST_F(Recording, KeepsSoManyKeys) {
  constexpr uint64_t count = 2 * DS_RECORDING_SETS * DS_RECORDING_WAYS;
  cuda_layer_norm_case test(DS_FLOAT16, {.rows = 40, .cols = 320});
  test.copies.send();
  for (uint64_t number = 0; number < count; number++)
    for (const ds_cuda_recording_state expected : from_the_first)
      ASSERT_EQ(enqueue(key_of(number), norm_of(test)), expected);
  EXPECT_EQ(enqueue(key_of(count - 1), norm_of(test)), DS_CUDA_WORK_DONE);
  EXPECT_EQ(enqueue(key_of(0), norm_of(test)), DS_CUDA_WORK_PLAIN);
  wait();
  test.copies.fetch();
  test.expect_result();
}

TEST_F(Recording, ServesThreadsAtOnce) {
  constexpr int count = 4;
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<cuda_layer_norm_case>> tests;
  for (int i = 0; i < count; i++)
    tests.push_back(std::make_unique<cuda_layer_norm_case>(
        DS_FLOAT16, layer_norm_options{.rows = 40, .cols = 320 + 8 * i}));
  for (int i = 0; i < count; i++)
    threads.emplace_back([&, i] {
      for (int round = 0; round < 50; round++) {
        enqueue({17, 0}, norm_of(*tests[0])); // one key of all threads
        enqueue({17, static_cast<uint64_t>(1 + i)}, norm_of(*tests[static_cast<size_t>(i)]));
      }
    });
  for (std::thread &thread : threads) thread.join();
  wait();
  for (auto &test : tests) {
    test->copies.fetch();
    test->expect_result();
  }
}

TEST_F(Recording, FollowsTheEnvironment) {
  cuda_layer_norm_case test(DS_FLOAT16, {.rows = 4, .cols = 32});
  for (int i = 0; i < 4; i++) enqueue(key_of(0), norm_of(test));
  setenv(DS_RECORDING_VARIABLE, "0", 1);
  EXPECT_EQ(enqueue_and_check(key_of(0), test), DS_CUDA_WORK_PLAIN);
  for (int i = 0; i < 5; i++) EXPECT_EQ(enqueue(key_of(1), norm_of(test)), DS_CUDA_WORK_PLAIN);
  setenv(DS_RECORDING_VARIABLE, "yes", 1);
  ds_cuda_recording recording;
  void *on = stream;
  const key of = key_of(0);
  EXPECT_EQ(module->recording_begin(&of, sizeof of, &on, &recording), DS_E_VALUE);
  EXPECT_STREQ(module->error_message(), "DS_DIFFUSERS_RECORDING is 'yes', must be 0 or 1");
  unsetenv(DS_RECORDING_VARIABLE);
  EXPECT_EQ(enqueue_and_check(key_of(0), test), DS_CUDA_WORK_PLAIN);
  setenv(DS_RECORDING_VARIABLE, "1", 1);
  EXPECT_EQ(enqueue_and_check(key_of(0), test), DS_CUDA_WORK_DONE);
}

} // namespace
} // namespace ds_tests
