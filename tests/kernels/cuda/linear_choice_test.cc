// The choice of an algorithm in simulated time: a library and a tuner that do nothing but count.
#include "cuda/linear_plan_cache_cuda.h"
#include "cuda/linear_tuning_cuda.h"
#include <algorithm>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr uintptr_t memory_start = uintptr_t{1} << 40;

// What the stand-ins are told and what they saw.
struct simulation {
  std::vector<double> times_us; // of the algorithms that the heuristic offers; below 0: it does not run
  std::function<double()> noise = [] { return 1.0; };
  size_t budget = size_t{1} << 30;
  int marks_until_failure = -1;
  bool can_allocate = true, has_tuner = true, captured = false;
  int wanted = 1;

  double clock_us = 0;
  double marks[DS_LINEAR_TUNER_EVENTS] = {};
  size_t allocated = 0;
  int live_allocations = 0, live_objects = 0, taken = 0, comparisons = 0;
  uint64_t workspace_preference = 0;
  struct run {
    int algorithm;
    const void *weight, *input, *residual, *output, *bias;
  };
  std::vector<run> runs;
  const void *bias = nullptr;
};

simulation *now;

template <typename T>
cublasStatus_t create(T *object) {
  now->live_objects++;
  *object = reinterpret_cast<T>(uintptr_t{64});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t destroy() {
  now->live_objects--;
  return CUBLAS_STATUS_SUCCESS;
}

cublasLtMatmulAlgo_t algorithm(size_t index) {
  cublasLtMatmulAlgo_t made = {};
  made.data[0] = index;
  return made;
}

// Offers those of even index with a workspace alone.
cublasStatus_t offer(cublasLtMatmulHeuristicResult_t *results, int most, int *count) {
  *count = 0;
  for (size_t i = 0; i < now->times_us.size() && *count < most; i++) {
    if (now->workspace_preference == 0 && i % 2 == 0) continue;
    results[*count] = {};
    results[*count].algo = algorithm(i);
    results[(*count)++].state = CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_SUCCESS;
}

const ds_cublaslt &library() {
  static ds_cublaslt made = [] {
    ds_cublaslt functions = {};
    functions.cublasLtGetStatusString = [](cublasStatus_t) -> const char * { return "a status"; };
    functions.cublasLtMatrixLayoutCreate = [](cublasLtMatrixLayout_t *layout, cudaDataType, uint64_t,
                                              uint64_t, int64_t) { return create(layout); };
    functions.cublasLtMatrixLayoutDestroy = [](cublasLtMatrixLayout_t) { return destroy(); };
    functions.cublasLtMatmulDescCreate = [](cublasLtMatmulDesc_t *operation, cublasComputeType_t,
                                            cudaDataType_t) { return create(operation); };
    functions.cublasLtMatmulDescDestroy = [](cublasLtMatmulDesc_t) { return destroy(); };
    functions.cublasLtMatmulDescSetAttribute = [](cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t which,
                                                  const void *value, size_t) {
      if (which == CUBLASLT_MATMUL_DESC_BIAS_POINTER) now->bias = *static_cast<const void *const *>(value);
      return CUBLAS_STATUS_SUCCESS;
    };
    functions.cublasLtMatmulPreferenceCreate = [](cublasLtMatmulPreference_t *preference) {
      return create(preference);
    };
    functions.cublasLtMatmulPreferenceDestroy = [](cublasLtMatmulPreference_t) { return destroy(); };
    functions.cublasLtMatmulPreferenceSetAttribute = [](cublasLtMatmulPreference_t,
                                                        cublasLtMatmulPreferenceAttributes_t which,
                                                        const void *value, size_t) {
      if (which == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        now->workspace_preference = *static_cast<const uint64_t *>(value);
      return CUBLAS_STATUS_SUCCESS;
    };
    functions.cublasLtMatmulAlgoGetHeuristic =
        [](cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
           cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int most,
           cublasLtMatmulHeuristicResult_t *results, int *count) { return offer(results, most, count); };
    functions.cublasLtMatmul = [](cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *weight,
                                  cublasLtMatrixLayout_t, const void *input, cublasLtMatrixLayout_t,
                                  const void *beta, const void *residual, cublasLtMatrixLayout_t,
                                  void *output, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *chosen,
                                  void *, size_t, cudaStream_t) {
      const double time_us = now->times_us[chosen->data[0]];
      if (time_us < 0) return CUBLAS_STATUS_NOT_SUPPORTED;
      EXPECT_EQ(*static_cast<const float *>(beta), residual == output ? 0.0f : 1.0f);
      now->clock_us += time_us * now->noise();
      now->runs.push_back({static_cast<int>(chosen->data[0]), weight, input, residual, output, now->bias});
      return CUBLAS_STATUS_SUCCESS;
    };
    return functions;
  }();
  return made;
}

} // namespace

ds_status ds_linear_tuning_wanted(int *wanted) {
  *wanted = now->wanted;
  return DS_OK;
}

void ds_linear_tuner_take(int, const ds_linear_tuner **tuner) {
  static ds_linear_tuner made;
  made.l2_bytes = 50 << 20;
  *tuner = now->has_tuner ? &made : nullptr;
  now->taken++;
}

void ds_linear_tuner_give(void) {
  now->taken--;
}

int ds_linear_tuner_is_captured(cudaStream_t) {
  return now->captured;
}

int ds_linear_tuner_mark(const ds_linear_tuner *, int event) {
  now->marks[event] = now->clock_us;
  return now->marks_until_failure < 0 || now->marks_until_failure-- > 0;
}

int ds_linear_tuner_read(const ds_linear_tuner *, int intervals, float *microseconds) {
  for (int i = 0; i < intervals; i++) microseconds[i] = static_cast<float>(now->marks[i + 1] - now->marks[i]);
  return 1;
}

size_t ds_linear_tuner_budget(void) {
  now->comparisons++;
  return now->budget;
}

void *ds_linear_tuner_allocate(const ds_linear_tuner *, size_t bytes) {
  if (!now->can_allocate) return nullptr;
  now->allocated = bytes;
  now->live_allocations++;
  return reinterpret_cast<void *>(memory_start);
}

void ds_linear_tuner_free(const ds_linear_tuner *, void *memory) {
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory), memory_start);
  now->live_allocations--;
}

ds_status ds_linear_tuner_fill(void *, size_t bytes, ds_dtype, cudaStream_t) {
  EXPECT_LE(bytes, now->allocated);
  EXPECT_EQ(bytes % 16, 0u);
  return DS_OK;
}

ds_status ds_linear_tuner_hold(unsigned microseconds, cudaStream_t) {
  now->clock_us += microseconds;
  return DS_OK;
}

namespace {

class LinearChoice : public testing::Test {
protected:
  LinearChoice() {
    now = &simulated;
    static int64_t rows;
    key.dtype = DS_FLOAT16;
    key.rows = ++rows; // a kind of product that no other test has
    key.in_features = key.input_row_stride = key.weight_row_stride = 640;
    key.out_features = key.output_row_stride = 1920;
    key.input_alignment = key.weight_alignment = key.output_alignment = 256;
    key.workspace_bytes = 32 << 20;
  }

  ~LinearChoice() override {
    EXPECT_EQ(simulated.live_objects, 0);
    EXPECT_EQ(simulated.live_allocations, 0);
    EXPECT_EQ(simulated.taken, 0);
  }

  ds_linear_comparison compare() {
    ds_linear_candidates candidates = {};
    for (size_t i = 0; i < simulated.times_us.size(); i++)
      candidates.algorithms[candidates.count++] = algorithm(i);
    const ds_linear_tuner *tuner = nullptr;
    ds_linear_tuner_take(0, &tuner);
    ds_linear_comparison comparison;
    ds_linear_compare(&library(), nullptr, tuner, &key, &candidates, &comparison);
    ds_linear_tuner_give();
    return comparison;
  }

  ds_linear_plan find_plan() {
    ds_linear_descriptors descriptors;
    ds_linear_plan plan = {};
    EXPECT_EQ(ds_linear_describe(&library(), &key, nullptr, &descriptors), DS_OK);
    EXPECT_EQ(ds_linear_find_plan(&library(), nullptr, &key, &descriptors, nullptr, &plan), DS_OK);
    ds_linear_release(&library(), &descriptors);
    return plan;
  }

  simulation simulated;
  ds_linear_key key = {};
};

TEST_F(LinearChoice, TheClearlyFastestWins) {
  simulated.times_us = {40, 44, 38.9, 70, 35, 36, 35.5, 90, 41, 40, 39, 37, 200, 38, 36, 50};
  const ds_linear_comparison found = compare();
  EXPECT_EQ(found.chosen, 4);
  EXPECT_EQ(found.measured, 16);
  EXPECT_NEAR(found.favourite_us, 40, 1e-3);
  EXPECT_NEAR(found.chosen_us, 35, 1e-3);
}

TEST_F(LinearChoice, TheFavouriteStaysWithoutAClearGain) {
  simulated.times_us = {40, 39.5, 39.2, 60, 41};
  EXPECT_EQ(compare().chosen, 0);
  simulated.times_us = {40};
  EXPECT_EQ(compare().measured, 0);
}

TEST_F(LinearChoice, TheFavouriteIsComparedHoweverSlow) {
  simulated.times_us = {400, 10, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6};
  const ds_linear_comparison found = compare();
  EXPECT_EQ(found.chosen, 1);
  EXPECT_NEAR(found.favourite_us, 400, 1e-2);
}

TEST_F(LinearChoice, AlgorithmsThatDoNotRunAreLeftOut) {
  simulated.times_us = {-1, 50, -1, 40, 45};
  const ds_linear_comparison found = compare();
  EXPECT_EQ(found.chosen, 3);
  EXPECT_EQ(found.measured, 3);
  EXPECT_NEAR(found.favourite_us, 50, 1e-3);
  simulated.times_us = {-1, 50, -1};
  EXPECT_EQ(compare().chosen, 1);
  simulated.times_us = {-1, -1};
  EXPECT_EQ(compare().chosen, 0);
}

// Whatever else the device does makes some runs longer.
TEST_F(LinearChoice, DisturbancesDoNotDecide) {
  std::mt19937 engine(1);
  simulated.noise = [&engine] {
    return engine() % 3 == 0 ? 1.0 + static_cast<double>(engine() % 100) / 50 : 1.0;
  };
  simulated.times_us = {40, 41, 32, 44, 36, 60};
  int right = 0;
  for (int i = 0; i < 200; i++) right += compare().chosen == 2;
  EXPECT_GT(right, 180);
}

TEST_F(LinearChoice, TakesLittleTimeHoweverLongAProductTakes) {
  for (const double us :
       {0.5, 2.0, 5.0, 10.0, 20.0, 40.0, 85.0, 170.0, 300.0, 500.0, 700.0, 900.0, 1500.0, 3000.0}) {
    simulated.times_us.assign(DS_LINEAR_MOST_CANDIDATES, us);
    simulated.clock_us = 0;
    const ds_linear_comparison found = compare();
    EXPECT_EQ(found.chosen, 0);
    EXPECT_LT(simulated.clock_us, us <= 100 ? 7e3 : 15e3) << us;
    EXPECT_TRUE(us > 500 || found.measured > 1) << us;
  }
}

TEST_F(LinearChoice, AFailureLeavesTheFirst) {
  simulated.times_us = {40, 30, 20};
  for (int marks = 0; marks < 40; marks++) {
    simulated.marks_until_failure = marks;
    const ds_linear_comparison found = compare();
    EXPECT_TRUE(found.chosen == 0 ? found.measured == 0 : found.chosen == 2) << marks;
  }
}

TEST_F(LinearChoice, AFailureLeavesTheFirstThatRuns) {
  simulated.times_us = {-1, 35, 30};
  simulated.marks_until_failure = 1;
  EXPECT_EQ(compare().chosen, 1);
}

TEST_F(LinearChoice, LargeProductsAndLittleMemoryLeaveTheFirst) {
  simulated.times_us = {40, 30};
  simulated.can_allocate = false;
  EXPECT_EQ(compare().measured, 0);
  simulated.can_allocate = true;
  simulated.budget = 40 << 20; // a workspace and some
  EXPECT_EQ(compare().chosen, 1);
  simulated.budget = 33 << 20;
  EXPECT_EQ(compare().measured, 0);
  simulated.budget = 0;
  EXPECT_EQ(compare().measured, 0);
  simulated.budget = size_t{1} << 40;
  key.rows = 1 << 20;
  EXPECT_EQ(compare().measured, 0);
}

// Where an operand of 16-bit elements lies.
struct span {
  span(const void *data, int64_t rows, int64_t cols, int64_t row_stride)
      : start(reinterpret_cast<uintptr_t>(data)),
        end(start + 2 * static_cast<uintptr_t>((rows - 1) * row_stride + cols)) {}
  uintptr_t start, end;
};

void expect_placed(const simulation::run &run, const ds_linear_key &key, size_t allocated) {
  std::vector<span> all = {span(run.input, key.rows, key.in_features, key.input_row_stride),
                           span(run.output, key.rows, key.out_features, key.output_row_stride),
                           span(run.weight, key.out_features, key.in_features, key.weight_row_stride)};
  if (key.has_residual) all.emplace_back(run.residual, key.rows, key.out_features, key.residual_row_stride);
  for (const span &one : all) EXPECT_EQ(one.start % 256, static_cast<uintptr_t>(key.input_alignment) % 256);
  if (key.has_bias) {
    all.emplace_back(run.bias, 1, key.out_features, key.out_features);
    EXPECT_EQ(all.back().start % 16, 0u);
  }
  std::sort(all.begin(), all.end(),
            [](const span &one, const span &other) { return one.start < other.start; });
  EXPECT_GE(all.front().start, memory_start);
  EXPECT_LE(all.back().end, memory_start + allocated);
  for (size_t i = 1; i < all.size(); i++) EXPECT_GE(all[i].start, all[i - 1].end);
}

TEST_F(LinearChoice, OperandsLieApartAndAreNoBetterAlignedThanTheCallers) {
  simulated.times_us = {40, 39};
  for (const int64_t alignment : {2, 4, 8, 16, 256})
    for (const int64_t padding : {0, 3, 100})
      for (const bool extras : {false, true})
        for (const int64_t rows : {1, 7, 300}) {
          key.rows = rows;
          key.out_features = 77;
          key.input_row_stride = key.weight_row_stride = key.in_features + padding;
          key.output_row_stride = key.out_features + padding;
          key.residual_row_stride = extras ? key.out_features + 2 * padding : 0;
          key.input_alignment = key.weight_alignment = key.output_alignment = alignment;
          key.residual_alignment = extras ? alignment : 0;
          key.has_bias = key.has_residual = extras;
          simulated.runs.clear();
          compare();
          ASSERT_FALSE(simulated.runs.empty());
          for (const simulation::run &run : simulated.runs) expect_placed(run, key, simulated.allocated);
        }
}

TEST_F(LinearChoice, CopiesOfTheWeightExceedTheCache) {
  simulated.times_us = {40, 39, 41, 42, 43, 44, 45};
  compare();
  std::vector<const void *> weights;
  for (const simulation::run &run : simulated.runs) weights.push_back(run.weight);
  std::sort(weights.begin(), weights.end());
  weights.erase(std::unique(weights.begin(), weights.end()), weights.end());
  EXPECT_GE(weights.size() * 640 * 1920 * 2, size_t{50} << 20);
  for (size_t i = 1; i < simulated.runs.size(); i++)
    EXPECT_NE(simulated.runs[i].weight, simulated.runs[i - 1].weight);
}

TEST_F(LinearChoice, CandidatesWithoutWorkspaceGetTheLastPlaces) {
  simulated.times_us.assign(40, 10.0);
  ds_linear_descriptors descriptors;
  ds_linear_candidates candidates;
  ASSERT_EQ(ds_linear_describe(&library(), &key, nullptr, &descriptors), DS_OK);
  ASSERT_EQ(ds_linear_find_candidates(&library(), nullptr, &key, &descriptors, &candidates), DS_OK);
  ds_linear_release(&library(), &descriptors);
  std::vector<uint64_t> found;
  for (int i = 0; i < candidates.count; i++) found.push_back(candidates.algorithms[i].data[0]);
  EXPECT_EQ(found, (std::vector<uint64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 17, 19, 21}));
}

TEST_F(LinearChoice, APlanIsMeasuredOnce) {
  simulated.times_us = {40, 30};
  for (int i = 0; i < 3; i++) {
    const ds_linear_plan plan = find_plan();
    EXPECT_TRUE(plan.supported);
    EXPECT_TRUE(plan.settled);
    EXPECT_EQ(plan.algorithm.data[0], 1u);
  }
  EXPECT_EQ(simulated.comparisons, 1);
}

TEST_F(LinearChoice, UnderCaptureTheFirstIsTakenUntilItCanBeMeasured) {
  simulated.times_us = {40, 30};
  simulated.captured = true;
  for (int i = 0; i < 2; i++) {
    const ds_linear_plan plan = find_plan();
    EXPECT_TRUE(plan.supported);
    EXPECT_FALSE(plan.settled);
    EXPECT_EQ(plan.algorithm.data[0], 0u);
  }
  EXPECT_EQ(simulated.comparisons, 0);
  simulated.captured = false;
  EXPECT_EQ(find_plan().algorithm.data[0], 1u);
  simulated.captured = true;
  EXPECT_EQ(find_plan().algorithm.data[0], 1u);
  EXPECT_EQ(simulated.comparisons, 1);
}

TEST_F(LinearChoice, TheFirstIsTakenWhereNothingIsMeasured) {
  simulated.times_us = {40, 30};
  simulated.wanted = 0;
  EXPECT_EQ(find_plan().algorithm.data[0], 0u);
  EXPECT_TRUE(find_plan().settled);
  simulated.wanted = 1;
  key.rows += 1000000;
  simulated.has_tuner = false;
  EXPECT_EQ(find_plan().algorithm.data[0], 0u);
  EXPECT_TRUE(find_plan().settled);
  EXPECT_EQ(simulated.comparisons, 0);
}

TEST_F(LinearChoice, NoAlgorithmIsAPlanToo) {
  const ds_linear_plan plan = find_plan();
  EXPECT_FALSE(plan.supported);
  EXPECT_TRUE(plan.settled);
  EXPECT_EQ(simulated.comparisons, 0);
}

} // namespace
