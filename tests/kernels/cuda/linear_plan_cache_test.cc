// The memory of plans, without a GPU.
#include "cuda/linear_plan_cache_cuda.h"
#include <gtest/gtest.h>
#include <thread>
#include <vector>

namespace {

ds_linear_key key_for(int64_t rows) {
  ds_linear_key key = {};
  key.rows = rows;
  key.in_features = 320;
  key.out_features = 640;
  return key;
}

ds_linear_plan plan_for(int64_t rows) {
  ds_linear_plan plan = {};
  plan.algorithm.data[0] = static_cast<uint64_t>(rows);
  plan.algorithm.data[7] = ~static_cast<uint64_t>(rows);
  plan.supported = 1;
  return plan;
}

bool knows(int64_t rows) {
  const ds_linear_key key = key_for(rows);
  ds_linear_plan plan;
  if (!ds_linear_plan_recall(&key, &plan)) return false;
  EXPECT_EQ(plan.algorithm.data[0], static_cast<uint64_t>(rows));
  EXPECT_EQ(plan.algorithm.data[7], ~static_cast<uint64_t>(rows));
  EXPECT_EQ(plan.supported, 1);
  return true;
}

void remember(int64_t rows) {
  const ds_linear_key key = key_for(rows);
  const ds_linear_plan plan = plan_for(rows);
  ds_linear_plan_remember(&key, &plan);
}

TEST(LinearPlanCache, RecallsWhatItWasGiven) {
  EXPECT_FALSE(knows(1000000));
  remember(1000000);
  EXPECT_TRUE(knows(1000000));
  EXPECT_FALSE(knows(1000001));
}

TEST(LinearPlanCache, EveryFieldCounts) {
  remember(2000000);
  for (size_t field = 0; field < sizeof(ds_linear_key) / sizeof(int64_t); field++) {
    ds_linear_key key = key_for(2000000);
    reinterpret_cast<int64_t *>(&key)[field] += 1;
    ds_linear_plan plan;
    EXPECT_FALSE(ds_linear_plan_recall(&key, &plan)) << "field " << field;
  }
}

TEST(LinearPlanCache, ANewPlanReplacesTheOld) {
  const ds_linear_key key = key_for(3000000);
  ds_linear_plan plan = plan_for(1);
  ds_linear_plan_remember(&key, &plan);
  plan = plan_for(2);
  ds_linear_plan_remember(&key, &plan);
  ASSERT_TRUE(ds_linear_plan_recall(&key, &plan));
  EXPECT_EQ(plan.algorithm.data[0], 2u);
}

TEST(LinearPlanCache, ASettledPlanStays) {
  const ds_linear_key key = key_for(4000000);
  ds_linear_plan settled = plan_for(1), unsettled = plan_for(2), plan;
  settled.settled = 1;
  ds_linear_plan_remember(&key, &unsettled);
  ds_linear_plan_remember(&key, &settled);
  ds_linear_plan_remember(&key, &unsettled);
  ASSERT_TRUE(ds_linear_plan_recall(&key, &plan));
  EXPECT_EQ(plan.algorithm.data[0], 1u);
  EXPECT_EQ(plan.settled, 1);
}

TEST(LinearPlanCache, KeepsWhatIsUsedAndForgetsTheRest) {
  constexpr int64_t capacity = DS_LINEAR_PLAN_SETS * DS_LINEAR_PLAN_WAYS;
  remember(5000000);
  int64_t known = 0;
  for (int64_t rows = 1; rows <= 20 * capacity; rows++) {
    remember(rows);
    EXPECT_TRUE(knows(rows));
    EXPECT_TRUE(knows(5000000));
  }
  for (int64_t rows = 1; rows <= 20 * capacity; rows++) known += knows(rows);
  EXPECT_LE(known, capacity);
  EXPECT_GT(known, capacity * 9 / 10);
}

// A model's few dozens of products stay, whatever their sets.
TEST(LinearPlanCache, HoldsTheProductsOfAModel) {
  int64_t known = 0;
  for (int64_t rows = 64; rows <= 64 * 60; rows += 64) remember(rows);
  for (int64_t rows = 64; rows <= 64 * 60; rows += 64) known += knows(rows);
  EXPECT_GE(known, 58);
}

TEST(LinearPlanCache, ThreadsShareIt) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; thread++)
    threads.emplace_back([thread] {
      for (int64_t round = 0; round < 20000; round++) {
        const int64_t rows = 10000000 + (round * 7 + thread) % 1000;
        if (!knows(rows)) remember(rows);
      }
    });
  for (std::thread &thread : threads) thread.join();
}

} // namespace
