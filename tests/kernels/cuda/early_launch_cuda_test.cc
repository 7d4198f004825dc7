// Kernels that may start before the work ahead of them has ended must give what they give one at a time.
//
// The work ahead is a product of few thread blocks, which lets what follows start beside it: a kernel that
// does not wait reads what is not written yet, and overwrites what is still to be read.
#include "early_launch_case.h"

namespace ds_tests {
namespace {

using step = std::function<ds_status()>;
using steps = std::vector<step>;

class EarlyLaunchCuda : public cuda_dtype_test {
protected:
  void SetUp() override {
    cuda_dtype_test::SetUp();
    if (module == nullptr) return;
    check_cuda(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    calls = std::make_unique<kernel_calls>(module, dtype, stream);
  }

  void TearDown() override {
    if (event != nullptr) check_cuda(cudaEventDestroy(event));
    if (other != nullptr) check_cuda(cudaStreamDestroy(other));
    cuda_dtype_test::TearDown();
  }

  void run(const steps &all, bool one_at_a_time) {
    for (const step &each : all) {
      ASSERT_EQ(each(), DS_OK) << module->error_message();
      if (one_at_a_time) check_cuda(cudaDeviceSynchronize());
    }
  }

  cudaGraph_t capture(const steps &all) {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    run(all, false);
    check_cuda(cudaStreamEndCapture(stream, &graph));
    return graph;
  }

  void run_as_graph(const steps &all) {
    cudaGraph_t graph = capture(all);
    cudaGraphExec_t executable = nullptr;
    check_cuda(cudaGraphInstantiate(&executable, graph, 0));
    check_cuda(cudaGraphLaunch(executable, stream));
    wait();
    check_cuda(cudaGraphExecDestroy(executable));
    check_cuda(cudaGraphDestroy(graph));
  }

  // The same bytes from the steps one at a time, one behind the other, and as a graph.
  void expect_in_order(const device_image &memory, const steps &all, const std::string &what) {
    memory.restore();
    run(all, true);
    const std::vector<unsigned char> expected = memory.contents();
    memory.restore();
    run(all, false);
    wait();
    EXPECT_TRUE(memory.contents() == expected) << what << ", in a stream";
    memory.restore();
    run_as_graph(all);
    EXPECT_TRUE(memory.contents() == expected) << what << ", in a graph";
  }

  // What follows on `to` waits for what `from` was told to do so far.
  step hand_over(cudaStream_t from, cudaStream_t to) {
    return [=, this] {
      check_cuda(cudaEventRecord(event, from));
      check_cuda(cudaStreamWaitEvent(to, event, 0));
      return DS_OK;
    };
  }

  cudaStream_t other = nullptr;
  cudaEvent_t event = nullptr;
  std::unique_ptr<kernel_calls> calls;
};

INSTANTIATE_TEST_SUITE_P(Gpu, EarlyLaunchCuda, each_dtype(), name_of_dtype);

// Memory of a slow product, of a call behind it that reads its result and writes what it still reads, and of
// a call that has nothing to do with it.
struct memory_behind {
  static constexpr int64_t matrix = kernel_calls::rows * kernel_calls::cols,
                           weights = kernel_calls::cols * kernel_calls::slow_features;

  explicit memory_behind(ds_dtype dtype)
      : image(dtype,
              kernel_calls::slow_features + weights + 3 * matrix + 4 * kernel_calls::most_written + 1024) {
    const char *const input = image.take(kernel_calls::slow_features), *const weight = image.take(weights);
    char *const result = image.take(matrix);
    behind = {result, result, image.take(kernel_calls::most_written), image.take(kernel_calls::most_written)};
    slow = {input, weight, behind.sum, behind.to, result};
    const char *const from = image.take(matrix), *const from_weights = image.take(matrix);
    beside = {from, from_weights, image.take(kernel_calls::most_written),
              image.take(kernel_calls::most_written)};
  }

  device_image image;
  kernel_calls::slow_operands slow;
  places behind, beside;
};

// Otherwise these tests would see nothing.
TEST_P(EarlyLaunchCuda, TheWorkAheadTakesLong) {
  const memory_behind memory(dtype);
  cudaEvent_t begin = nullptr, end = nullptr;
  check_cuda(cudaEventCreate(&begin));
  check_cuda(cudaEventCreate(&end));
  memory.image.restore();
  for (int run = 0; run < 2; run++) {
    check_cuda(cudaEventRecord(begin, stream));
    ASSERT_EQ(calls->slow_product(memory.slow, stream), DS_OK) << module->error_message();
    check_cuda(cudaEventRecord(end, stream));
  }
  wait();
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, begin, end));
  EXPECT_GT(milliseconds, 0.1f);
  check_cuda(cudaEventDestroy(begin));
  check_cuda(cudaEventDestroy(end));
}

TEST_P(EarlyLaunchCuda, EveryKernelWaitsForTheWorkAhead) {
  const memory_behind memory(dtype);
  const step slow = [&] { return calls->slow_product(memory.slow, stream); };
  for (const auto &[name, run] : calls->all())
    expect_in_order(memory.image, {slow, [&] { return run(memory.behind); }}, name);
}

// The last kernel waits for the one in the middle alone: that must not end before the work ahead of it.
TEST_P(EarlyLaunchCuda, NoKernelEndsBeforeTheWorkAhead) {
  const memory_behind memory(dtype);
  const step slow = [&] { return calls->slow_product(memory.slow, stream); };
  const placed_call last = calls->bias_add(kernel_calls::rows, kernel_calls::cols, false, false);
  for (const auto &[name, run] : calls->all())
    expect_in_order(memory.image,
                    {slow, [&] { return run(memory.beside); }, [&] { return last(memory.behind); }}, name);
}

TEST_P(EarlyLaunchCuda, WaitsForAnotherStream) {
  const memory_behind memory(dtype);
  const placed_call ahead = calls->bias_add(kernel_calls::rows, kernel_calls::cols, false, false);
  for (const auto &[name, run] : calls->all())
    expect_in_order(memory.image,
                    {hand_over(stream, other), [&] { return calls->slow_product(memory.slow, other); },
                     [&] { return ahead(memory.beside); }, hand_over(other, stream),
                     [&] { return run(memory.behind); }},
                    name);
}

TEST_P(EarlyLaunchCuda, WaitsForACopy) {
  const memory_behind memory(dtype);
  const places copied = {memory.beside.from, memory.beside.from, memory.behind.to, memory.behind.sum};
  const step slow = [&] { return calls->slow_product(memory.slow, stream); };
  const step copy = [&] {
    const size_t bytes = memory_behind::matrix * ds_dtype_bytes(dtype);
    check_cuda(cudaMemcpyAsync(const_cast<char *>(copied.from), memory.slow.output, bytes,
                               cudaMemcpyDeviceToDevice, stream));
    return DS_OK;
  };
  for (const auto &[name, run] : calls->all())
    expect_in_order(memory.image, {slow, copy, [&] { return run(copied); }}, name);
}

// Each call reads what the one before it wrote, and overwrites what that one read.
TEST_P(EarlyLaunchCuda, LongChainsKeepTheirOrder) {
  constexpr int64_t most = 4096 * 640;
  device_image memory(dtype, 5 * most + 2 * kernel_calls::rows * kernel_calls::cols);
  char *const first = memory.take(2 * most), *const second = memory.take(2 * most),
              *const sum = memory.take(most);
  const places forth = {first, memory.take(kernel_calls::rows * kernel_calls::cols), second, sum};
  const places back = {second, forth.weights, first, sum};

  std::mt19937 random(7);
  steps all;
  for (int i = 0; i < 200; i++) {
    const std::pair<int64_t, int64_t> sizes[] = {{4096, 640}, {1000, 1280}, {130, 320},
                                                 {96, 64},    {7, 37},      {1, 8}};
    const auto [rows, cols] = sizes[random() % std::size(sizes)];
    // Every second one is a norm, which keeps the numbers small.
    const auto operands = static_cast<kernel_calls::norm_operands>(random() % 3);
    const placed_call norm = calls->layer_norm(operands, rows, cols, cols);
    const placed_call others[] = {calls->bias_add(rows, cols, false, false),
                                  calls->bias_add(rows, cols, true, false),
                                  calls->gated_activation(rows, cols, false),
                                  calls->linear(kernel_calls::cols),
                                  calls->linear(0),
                                  calls->attention(kernel_calls::rows),
                                  calls->attention(77),
                                  calls->gated_linear()};
    const placed_call next = i % 2 == 0 ? norm : others[random() % std::size(others)];
    all.push_back([=] { return next(i % 2 == 0 ? forth : back); });
  }
  expect_in_order(memory, all, "the chain");
}

// A graph keeps the permission to start early.
TEST_P(EarlyLaunchCuda, GraphsStartKernelsEarly) {
  int device = 0, major = 0;
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major < 9 || std::string(module->architectures).find("90") == std::string::npos)
    GTEST_SKIP() << "the device or the build has no early starts";
  const memory_behind memory(dtype);
  memory.image.restore();
  for (const auto &[name, run] : calls->all()) {
    if (name == "linear" || run(memory.beside) != DS_OK) continue; // cuBLASLt decides about its own
    wait();
    const step each = [&] { return run(memory.beside); };
    cudaGraph_t graph = capture({each, each});
    size_t edges = 0;
    check_cuda(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
    std::vector<cudaGraphNode_t> from(edges), to(edges);
    std::vector<cudaGraphEdgeData> data(edges);
    check_cuda(cudaGraphGetEdges(graph, from.data(), to.data(), data.data(), &edges));
    for (const cudaGraphEdgeData &edge : data)
      EXPECT_EQ(edge.type, cudaGraphDependencyTypeProgrammatic) << name;
    check_cuda(cudaGraphDestroy(graph));
  }
}

} // namespace
} // namespace ds_tests
