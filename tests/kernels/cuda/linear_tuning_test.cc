// How an algorithm is chosen, on a GPU.
#include "cuda/ds_cuda_device.h"
#include "cuda/ds_kernels_cuda.h"
#include "cuda/linear_tuning_cuda.h"
#include "cuda_kernel_test.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <latch>
#include <thread>

namespace ds_tests {
namespace {

struct product {
  int64_t rows, in_features, out_features;
  bool bias = false;
  bool residual = false;
  int64_t alignment = 256; // of all operands
  int64_t padding = 0;     // of all rows
};

ds_linear_key key_of(const product &of, ds_dtype dtype, bool allow_tf32 = false) {
  ds_linear_key key = {};
  key.dtype = dtype;
  key.allow_tf32 = allow_tf32;
  key.rows = of.rows;
  key.in_features = of.in_features;
  key.out_features = of.out_features;
  key.input_row_stride = key.weight_row_stride = of.in_features + of.padding;
  key.output_row_stride = of.out_features + of.padding;
  key.residual_row_stride = of.residual ? of.out_features + of.padding : 0;
  key.input_alignment = key.weight_alignment = key.output_alignment = of.alignment;
  key.residual_alignment = of.residual ? of.alignment : 0;
  key.has_bias = of.bias;
  key.has_residual = of.residual;
  key.workspace_bytes = DS_LINEAR_WORKSPACE_BYTES;
  return key;
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

class LinearTuning : public cuda_test {
protected:
  void SetUp() override {
    cuda_test::SetUp();
    if (module == nullptr) return;
    check_cuda(cudaMalloc(&bias_, 1 << 16));
    ASSERT_EQ(ds_cublaslt_open(&library), DS_OK) << ds_error_message();
    ASSERT_EQ(ds_cublaslt_handle(library, 0, &handle), DS_OK) << ds_error_message();
  }

  void TearDown() override {
    cudaFree(bias_);
    cuda_test::TearDown();
  }

  // Calls f(descriptors) for the product.
  template <typename F>
  void describe(const ds_linear_key &key, const F &f) {
    ds_linear_descriptors descriptors;
    ASSERT_EQ(ds_linear_describe(library, &key, key.has_bias ? bias_ : nullptr, &descriptors), DS_OK)
        << ds_error_message();
    f(descriptors);
    ds_linear_release(library, &descriptors);
  }

  ds_linear_candidates candidates_of(const ds_linear_key &key) {
    ds_linear_candidates candidates = {};
    describe(key, [&](const ds_linear_descriptors &descriptors) {
      EXPECT_EQ(ds_linear_find_candidates(library, handle, &key, &descriptors, &candidates), DS_OK)
          << ds_error_message();
    });
    return candidates;
  }

  ds_linear_comparison compare(const ds_linear_key &key, const ds_linear_candidates &candidates) {
    ds_linear_comparison comparison = {};
    const ds_linear_tuner *tuner = nullptr;
    ds_linear_tuner_take(0, &tuner);
    if (tuner == nullptr)
      ADD_FAILURE() << "no tuner";
    else
      ds_linear_compare(library, handle, tuner, &key, &candidates, &comparison);
    ds_linear_tuner_give();
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    return comparison;
  }

  ds_linear_plan plan_of(const ds_linear_key &key) {
    ds_linear_plan plan = {};
    describe(key, [&](const ds_linear_descriptors &descriptors) {
      EXPECT_EQ(ds_linear_find_plan(library, handle, &key, &descriptors, stream, &plan), DS_OK)
          << ds_error_message();
    });
    return plan;
  }

  const ds_cublaslt *library = nullptr;
  cublasLtHandle_t handle = nullptr;

private:
  void *bias_ = nullptr;
};

bool same(const cublasLtMatmulAlgo_t &one, const cublasLtMatmulAlgo_t &other) {
  return memcmp(&one, &other, sizeof one) == 0;
}

struct block {
  int64_t batch, tokens, channels, context;
};

// Prints what the choice is worth for the products of the models' blocks.
TEST_F(LinearTuning, ComparesTheProductsOfModels) {
  double total = 0, slowest = 0;
  std::printf("%-30s %9s %9s %6s  %s\n", "rows x in -> out", "first us", "chosen", "ratio", "candidate, ms");
  for (const block &of : {block{2, 4096, 640, 2048},
                          {2, 1024, 1280, 2048},
                          {2, 3952, 640, 2048},
                          {2, 988, 1280, 2048},
                          {2, 4096, 320, 768},
                          {2, 1024, 640, 768},
                          {2, 256, 1280, 768},
                          {2, 64, 1280, 768},
                          {2, 9216, 320, 1024},
                          {2, 2304, 640, 1024}}) {
    const int64_t rows = of.batch * of.tokens, c = of.channels;
    for (const product &p : {product{rows, c, 3 * c},
                             {rows, c, c, true, true},
                             {rows, c, c},
                             {of.batch * 77, of.context, 2 * c},
                             {rows, c, 8 * c},
                             {rows, 4 * c, c, true, true}}) {
      const ds_linear_key key = key_of(p, DS_FLOAT16);
      const auto start = std::chrono::steady_clock::now();
      const ds_linear_candidates candidates = candidates_of(key);
      const ds_linear_comparison found = compare(key, candidates);
      const double took = milliseconds_since(start);
      EXPECT_GT(found.measured, 1);
      EXPECT_LT(found.chosen, candidates.count);
      EXPECT_GT(found.chosen_us, 0);
      EXPECT_LE(found.chosen_us, found.favourite_us);
      const std::string name = std::to_string(p.rows) + " x " + std::to_string(p.in_features) + " -> " +
                               std::to_string(p.out_features) + (p.bias ? " +b+r" : "");
      std::printf("%-30s %9.2f %9.2f %6.3f  %d of %d (%d measured), %.2f\n", name.c_str(), found.favourite_us,
                  found.chosen_us, found.chosen_us / found.favourite_us, found.chosen, candidates.count,
                  found.measured, took);
      total += took;
      slowest = std::max(slowest, took);
    }
  }
  std::printf("choosing took %.1f ms for all, %.1f ms for the slowest\n", total, slowest);
}

TEST_F(LinearTuning, OffersEachAlgorithmOnce) {
  for (const product &p : {product{8192, 640, 1920}, {128, 1280, 10240}, {5, 7, 9}}) {
    const ds_linear_candidates candidates = candidates_of(key_of(p, DS_FLOAT16));
    ASSERT_GT(candidates.count, 0);
    ASSERT_LE(candidates.count, DS_LINEAR_MOST_CANDIDATES);
    for (int i = 0; i < candidates.count; i++)
      for (int j = 0; j < i; j++) EXPECT_FALSE(same(candidates.algorithms[i], candidates.algorithms[j]));
  }
}

// Operands as badly placed as the caller's may be; a kernel that took them for better ones would fail.
TEST_F(LinearTuning, MeasuresAnyPlacesAndTypes) {
  struct precision {
    ds_dtype dtype;
    bool allow_tf32;
  };
  for (const precision &of :
       {precision{DS_FLOAT32, false}, {DS_FLOAT32, true}, {DS_FLOAT16, false}, {DS_BFLOAT16, false}})
    for (const int64_t alignment : {4, 8, 16, 256})
      for (const int64_t padding : {0, 1, 8})
        for (const bool extras : {false, true})
          for (const product &p : {product{64, 72, 40}, {3, 5, 7}, {1, 320, 640}, {200, 640, 1}}) {
            product placed = p;
            placed.bias = placed.residual = extras;
            placed.alignment = alignment;
            placed.padding = padding;
            const ds_linear_key key = key_of(placed, of.dtype, of.allow_tf32);
            const ds_linear_candidates candidates = candidates_of(key);
            const ds_linear_comparison found = compare(key, candidates);
            EXPECT_TRUE(candidates.count < 2 || found.measured > 0)
                << p.rows << " x " << p.in_features << " -> " << p.out_features << ", " << candidates.count
                << " candidates";
            EXPECT_TRUE(found.chosen == 0 || found.chosen < candidates.count);
          }
}

TEST_F(LinearTuning, LeavesLargeProductsToTheLibrary) {
  const ds_linear_key key = key_of({1 << 16, 4096, 4096}, DS_FLOAT16);
  EXPECT_EQ(compare(key, candidates_of(key)).measured, 0);
}

TEST_F(LinearTuning, SettlesOnce) {
  const ds_linear_key key = key_of({1040, 640, 640, true, true}, DS_FLOAT16);
  const ds_linear_plan first = plan_of(key), second = plan_of(key);
  EXPECT_TRUE(first.supported);
  EXPECT_TRUE(first.settled);
  EXPECT_EQ(memcmp(&first, &second, sizeof first), 0);
}

TEST_F(LinearTuning, WaitsForTheEndOfACapture) {
  const ds_linear_key key = key_of({1048, 640, 640}, DS_FLOAT16);
  const ds_linear_candidates candidates = candidates_of(key);
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  for (int i = 0; i < 2; i++) {
    const ds_linear_plan captured = plan_of(key);
    EXPECT_FALSE(captured.settled);
    EXPECT_TRUE(same(captured.algorithm, candidates.algorithms[0]));
  }
  check_cuda(cudaStreamEndCapture(stream, &graph));
  size_t nodes = 1;
  check_cuda(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT_EQ(nodes, 0u);
  check_cuda(cudaGraphDestroy(graph));
  EXPECT_TRUE(plan_of(key).settled);
}

// In the mode that forbids this thread most.
TEST_F(LinearTuning, MeasuresWhileAnotherThreadCaptures) {
  const ds_linear_key key = key_of({1056, 640, 640}, DS_FLOAT16);
  std::latch begun(1), measured(1);
  std::thread capturing([&] {
    cudaStream_t other = nullptr;
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    check_cuda(cudaStreamBeginCapture(other, cudaStreamCaptureModeGlobal));
    begun.count_down();
    measured.wait();
    EXPECT_EQ(cudaStreamEndCapture(other, &graph), cudaSuccess);
    cudaGraphDestroy(graph);
    check_cuda(cudaStreamDestroy(other));
  });
  begun.wait();
  const enum cudaStreamCaptureMode previous = ds_cuda_begin_relaxed();
  EXPECT_TRUE(plan_of(key).settled);
  EXPECT_GT(compare(key, candidates_of(key)).measured, 0);
  ds_cuda_end_relaxed(previous);
  measured.count_down();
  capturing.join();
}

TEST_F(LinearTuning, TheEnvironmentTurnsItOff) {
  const ds_linear_key key = key_of({1064, 640, 640}, DS_FLOAT16),
                      other = key_of({1072, 640, 640}, DS_FLOAT16);
  setenv(DS_LINEAR_TUNING_VARIABLE, "0", 1);
  const ds_linear_plan plan = plan_of(key);
  EXPECT_TRUE(plan.settled);
  EXPECT_TRUE(same(plan.algorithm, candidates_of(key).algorithms[0]));
  setenv(DS_LINEAR_TUNING_VARIABLE, "maybe", 1);
  describe(other, [&](const ds_linear_descriptors &descriptors) {
    ds_linear_plan none;
    EXPECT_EQ(ds_linear_find_plan(library, handle, &other, &descriptors, stream, &none), DS_E_VALUE);
  });
  unsetenv(DS_LINEAR_TUNING_VARIABLE);
}

TEST_F(LinearTuning, ThreadsSettleOnOnePlan) {
  const ds_linear_key key = key_of({1080, 640, 1920}, DS_FLOAT16);
  std::vector<ds_linear_plan> plans(8);
  std::vector<std::thread> threads;
  for (ds_linear_plan &plan : plans) threads.emplace_back([&] { plan = plan_of(key); });
  for (std::thread &thread : threads) thread.join();
  for (const ds_linear_plan &plan : plans) {
    EXPECT_TRUE(plan.settled);
    EXPECT_TRUE(same(plan.algorithm, plans[0].algorithm));
  }
}

// The other stream is still busy after the comparison. All kernels were loaded by a first one: loading may
// have to wait.
TEST_F(LinearTuning, DoesNotWaitForOtherStreams) {
  const ds_linear_key key = key_of({2048, 640, 1920}, DS_FLOAT16);
  const ds_linear_candidates candidates = candidates_of(key);
  compare(key, candidates);
  ASSERT_EQ(ds_linear_tuner_hold(1000000, stream), DS_OK);
  const ds_linear_tuner *tuner = nullptr;
  ds_linear_comparison comparison;
  ds_linear_tuner_take(0, &tuner);
  ASSERT_NE(tuner, nullptr);
  ds_linear_compare(library, handle, tuner, &key, &candidates, &comparison);
  ds_linear_tuner_give();
  EXPECT_GT(comparison.measured, 0);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  wait();
}

size_t free_bytes() {
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total));
  return free;
}

TEST_F(LinearTuning, GivesItsMemoryBack) {
  const ds_linear_key key = key_of({8192, 640, 5120}, DS_FLOAT16);
  const ds_linear_candidates candidates = candidates_of(key);
  compare(key, candidates);
  const size_t before = free_bytes();
  compare(key, candidates);
  EXPECT_GE(free_bytes() + (4 << 20), before);
}

TEST_F(LinearTuning, TakesTheFirstWhereMemoryIsShort) {
  const ds_linear_key key = key_of({4096, 640, 640}, DS_FLOAT16);
  const ds_linear_candidates candidates = candidates_of(key);
  compare(key, candidates);
  std::vector<void *> taken;
  for (size_t bytes = size_t{64} << 30; bytes >= 32 << 20;) {
    void *memory = nullptr;
    if (cudaMalloc(&memory, bytes) == cudaSuccess)
      taken.push_back(memory);
    else
      bytes /= 2;
  }
  cudaGetLastError();
  const ds_linear_comparison found = compare(key, candidates);
  EXPECT_EQ(found.measured, 0);
  EXPECT_EQ(found.chosen, 0);
  const ds_linear_plan plan = plan_of(key);
  EXPECT_TRUE(plan.settled);
  EXPECT_TRUE(same(plan.algorithm, candidates.algorithms[0]));
  for (void *memory : taken) check_cuda(cudaFree(memory));
}

class LinearTunerFill : public cuda_dtype_test {};
INSTANTIATE_TEST_SUITE_P(Gpu, LinearTunerFill, each_dtype(), name_of_dtype);

TEST_P(LinearTunerFill, WritesUsualNumbers) {
  matrix numbers(dtype, 64, 128, layout::contiguous);
  const device_copies copies({&numbers});
  ASSERT_EQ(ds_linear_tuner_fill(copies.at(numbers.data()), 64 * 128 * ds_dtype_bytes(dtype), dtype, stream),
            DS_OK);
  wait();
  copies.fetch();
  double sum = 0, squares = 0;
  for (int64_t row = 0; row < numbers.rows(); row++)
    for (int64_t col = 0; col < numbers.cols(); col++) {
      const double value = numbers.at(row, col);
      ASSERT_GE(std::abs(value), 0.125);
      ASSERT_LT(std::abs(value), 0.5);
      sum += value;
      squares += value * value;
    }
  const double count = 64 * 128;
  EXPECT_LT(std::abs(sum), 4 * 0.302 * std::sqrt(count));
  EXPECT_NEAR(squares / count, 0.0911, 0.005);
  numbers.expect_untouched_around();
}

} // namespace
} // namespace ds_tests
