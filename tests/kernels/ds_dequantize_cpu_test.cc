// dequantize on the CPU against float64.
#include "dequantize_case.h"
#include "parallel.h"

namespace ds_tests {
namespace {

class DequantizeCpu : public cpu_kernel_test {
protected:
  void run_and_check(const dequantize_options &options) {
    dequantize_case test(dtype, options);
    ASSERT_EQ(kernels->dequantize(&test.params, nullptr), DS_OK);
    test.expect_result();
  }
};

INSTANTIATE_TEST_SUITE_P(Cpu, DequantizeCpu, each_capability_and_dtype(), name_of_case);

TEST_P(DequantizeCpu, MatchesReferenceForAnySizes) {
  for (const int64_t cols : interesting_cols()) run_and_check({.rows = 3, .cols = cols});
  for (const int64_t rows : interesting_rows()) run_and_check({.rows = rows, .cols = 37});
}

TEST_P(DequantizeCpu, EachGroupHasItsScale) {
  for (const int64_t groups : {1, 2, 3, 5, 8})
    for (const int64_t group : {1, 7, 16, 64, 129, 1025})
      run_and_check({.rows = 5, .cols = groups * group, .groups = groups});
}

TEST_P(DequantizeCpu, MatchesReferenceInAnyLayout) {
  for (const layout weight : layouts_of_weights())
    for (const layout scale : {layout::contiguous, layout::odd_address})
      for (const layout output : {layout::contiguous, layout::second_element})
        for (const int64_t groups : {1, 2})
          run_and_check({.rows = 6,
                         .cols = 74,
                         .groups = groups,
                         .weight_layout = weight,
                         .scale_layout = scale,
                         .output_layout = output});
}

TEST_P(DequantizeCpu, EveryNumberIsItself) {
  dequantize_case test(dtype, {.rows = 1, .cols = 256});
  test.scale.write(0, 0, 1.0);
  for (int64_t i = 0; i < 256; i++) test.weight.write(0, i, static_cast<double>(i - 128));
  ASSERT_EQ(kernels->dequantize(&test.params, nullptr), DS_OK);
  for (int64_t i = 0; i < 256; i++) EXPECT_EQ(test.output.at(0, i), static_cast<double>(i - 128));
}

TEST_P(DequantizeCpu, AScaleThatIsNotFiniteLeavesNothingFinite) {
  for (const double scale :
       {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
        std::numeric_limits<double>::quiet_NaN()}) {
    dequantize_case test(dtype, {.rows = 2, .cols = 40});
    test.weight.write(1, 3, 0.0);
    test.scale.write(1, 0, scale);
    ASSERT_EQ(kernels->dequantize(&test.params, nullptr), DS_OK);
    for (int64_t col = 0; col < 40; col++) {
      EXPECT_TRUE(std::isfinite(test.output.at(0, col)));
      EXPECT_FALSE(std::isfinite(test.output.at(1, col)));
    }
  }
}

TEST_P(DequantizeCpu, NoElementsTouchNothing) {
  ds_dequantize_params params = {};
  params.dtype = dtype;
  params.groups = 1;
  params.cols = 8;
  EXPECT_EQ(kernels->dequantize(&params, nullptr), DS_OK);
  params.rows = 5;
  params.cols = 0;
  EXPECT_EQ(kernels->dequantize(&params, nullptr), DS_OK);
}

TEST_P(DequantizeCpu, ThreadsChangeNothing) {
  const dequantize_options options = {.rows = 1300, .cols = 66, .groups = 3};
  dequantize_case alone(dtype, options), backwards(dtype, options), threads(dtype, options);
  ASSERT_EQ(kernels->dequantize(&alone.params, nullptr), DS_OK);
  ASSERT_EQ(kernels->dequantize(&backwards.params, parallel_backwards), DS_OK);
  ASSERT_EQ(kernels->dequantize(&threads.params, parallel_threads), DS_OK);
  EXPECT_EQ(backwards.output.bits(), alone.output.bits());
  EXPECT_EQ(threads.output.bits(), alone.output.bits());
}

TEST_P(DequantizeCpu, ReportsAFailureOfTheThreads) {
  dequantize_case test(dtype, {.rows = 3, .cols = 5});
  EXPECT_EQ(kernels->dequantize(&test.params, parallel_failure), DS_E_SERVICE);
  test.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
