// layer_norm on the CPU against float64.
#include "layer_norm_case.h"
#include "parallel.h"

namespace ds_tests {
namespace {

class LayerNormCpu : public cpu_kernel_test {
protected:
  void run_and_check(const layer_norm_options &options) {
    layer_norm_case test(dtype, options);
    ASSERT_EQ(kernels->layer_norm(&test.params, options.parallel_for), DS_OK) << ds_error_message();
    test.expect_result();
  }
};

class RoundedLayerNormCpu : public LayerNormCpu {};

INSTANTIATE_TEST_SUITE_P(Cpu, RoundedLayerNormCpu, each_capability_and_16_bit_dtype(), name_of_case);
INSTANTIATE_TEST_SUITE_P(Cpu, LayerNormCpu, each_capability_and_dtype(), name_of_case);

TEST_P(LayerNormCpu, MatchesReferenceForAnyColumns) {
  for (const int64_t cols : interesting_cols()) run_and_check({.rows = 3, .cols = cols});
}

TEST_P(LayerNormCpu, MatchesReferenceForAnyRows) {
  for (const int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 17, 320}) run_and_check({.rows = rows, .cols = cols});
}

TEST_P(LayerNormCpu, MatchesReferenceWithAnyOptionalOperands) {
  for (unsigned choice = 0; choice < 32; choice++)
    for (const int64_t cols : {5, 64, 161})
      run_and_check({.rows = 4,
                     .cols = cols,
                     .gamma = (choice & 1) != 0,
                     .beta = (choice & 2) != 0,
                     .bias = (choice & 4) != 0,
                     .residual = (choice & 8) != 0,
                     .sum = (choice & 16) != 0});
}

TEST_P(LayerNormCpu, MatchesReferenceInAnyLayout) {
  for (const layout input : layouts_of_inputs())
    for (const layout residual : layouts_of_inputs())
      for (const int64_t rows : {1, 6, 34})
        run_and_check({.rows = rows,
                       .cols = 37,
                       .residual = true,
                       .sum = true,
                       .input_layout = input,
                       .residual_layout = residual});
}

TEST_P(LayerNormCpu, MatchesReferenceInAnyLayoutAlone) {
  for (const layout input : layouts_of_inputs())
    for (const int64_t cols : {1, 2, 16, 129, 320})
      run_and_check({.rows = 70, .cols = cols, .sum = cols == 129, .input_layout = input});
}

TEST_P(LayerNormCpu, WritesAtAnyAddress) {
  for (const layout output : {layout::second_element, layout::odd_address})
    for (const int64_t cols : {1, 15, 64, 100})
      run_and_check({.rows = 3, .cols = cols, .residual = true, .sum = true, .output_layout = output});
}

// Longer than the scratch on the stack, in place, staged, and gathered.
TEST_P(LayerNormCpu, MatchesReferenceForLongRows) {
  for (const int64_t cols : {8192, 14432, 200003}) {
    run_and_check({.rows = 2, .cols = cols});
    run_and_check({.rows = 2, .cols = cols, .bias = true, .residual = true, .sum = true});
    run_and_check({.rows = 3, .cols = cols, .input_layout = layout::column_major});
  }
}

TEST_P(LayerNormCpu, KeepsItsAccuracyFarFromZero) {
  for (const int64_t cols : {64, 1280, 14432}) run_and_check({.rows = 2, .cols = cols, .centre = 1000.0});
}

TEST_P(RoundedLayerNormCpu, NormalizesTheUnroundedSum) {
  // 256 or 2048 and small numbers that the storage type loses beside them.
  const double large = dtype == DS_BFLOAT16 ? 256 : 2048;
  layer_norm_case test(dtype,
                       {.rows = 1, .cols = 64, .gamma = false, .beta = false, .residual = true, .sum = true});
  for (int64_t col = 0; col < 64; col++) {
    test.input.write(0, col, large);
    test.residual.write(0, col, col % 2 == 0 ? 0.25 : -0.25);
  }
  ASSERT_EQ(kernels->layer_norm(&test.params, nullptr), DS_OK);
  for (int64_t col = 0; col < 64; col++) {
    EXPECT_EQ(test.sum.at(0, col), large);
    EXPECT_NEAR(test.output.at(0, col), col % 2 == 0 ? 1.0 : -1.0, 0.01);
  }
}

// Exactly: the mean of equal numbers is the number, whatever rounding their sum suffers.
TEST_P(LayerNormCpu, ConstantRowsGiveBeta) {
  for (const double constant : {3.0, 0.1, -1234.567})
    for (const int64_t cols : {1, 100, 1280, 14432}) {
      layer_norm_case test(dtype, {.rows = 2, .cols = cols, .width = 0.0, .centre = constant});
      ASSERT_EQ(kernels->layer_norm(&test.params, nullptr), DS_OK);
      for (int64_t col = 0; col < cols; col++) ASSERT_EQ(test.output.at(1, col), test.beta.at(0, col));
    }
}

TEST_P(LayerNormCpu, ConstantRowsWithoutEpsilonGiveNaN) {
  layer_norm_case test(dtype, {.rows = 1, .cols = 100, .width = 0.0, .centre = 3.0, .epsilon = 0.0f});
  ASSERT_EQ(kernels->layer_norm(&test.params, nullptr), DS_OK);
  for (int64_t col = 0; col < 100; col++) EXPECT_TRUE(std::isnan(test.output.at(0, col)));
}

TEST_P(LayerNormCpu, NonFiniteNumbersStayInTheirRow) {
  for (const double value :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    for (const bool residual : {false, true}) {
      layer_norm_case test(dtype, {.rows = 3, .cols = 33, .residual = residual, .sum = true});
      test.input.write(1, 20, value);
      ASSERT_EQ(kernels->layer_norm(&test.params, nullptr), DS_OK);
      for (int64_t col = 0; col < 33; col++) {
        EXPECT_TRUE(std::isfinite(test.output.at(0, col)));
        EXPECT_TRUE(std::isnan(test.output.at(1, col)));
        EXPECT_TRUE(std::isfinite(test.output.at(2, col)));
      }
    }
}

TEST_P(LayerNormCpu, NoRowsTouchNothing) {
  ds_layer_norm_params params = {};
  params.dtype = dtype;
  params.cols = 8;
  params.input = ds_rows_contiguous(nullptr, 0, 8);
  EXPECT_EQ(kernels->layer_norm(&params, nullptr), DS_OK);
}

TEST_P(LayerNormCpu, ThreadsChangeNothing) {
  for (const layout input : {layout::contiguous, layout::column_major}) {
    const layer_norm_options options = {
        .rows = 300, .cols = 161, .residual = true, .sum = true, .input_layout = input};
    layer_norm_case alone(dtype, options), backwards(dtype, options), threads(dtype, options);
    ASSERT_EQ(kernels->layer_norm(&alone.params, nullptr), DS_OK);
    ASSERT_EQ(kernels->layer_norm(&backwards.params, parallel_backwards), DS_OK);
    ASSERT_EQ(kernels->layer_norm(&threads.params, parallel_threads), DS_OK);
    EXPECT_EQ(backwards.output.bits(), alone.output.bits());
    EXPECT_EQ(threads.output.bits(), alone.output.bits());
    EXPECT_EQ(threads.sum.bits(), alone.sum.bits());
  }
}

TEST_P(LayerNormCpu, ReportsAFailureOfTheThreads) {
  layer_norm_case test(dtype, {.rows = 3, .cols = 5, .sum = true});
  EXPECT_EQ(kernels->layer_norm(&test.params, parallel_failure), DS_E_SERVICE);
  EXPECT_STREQ(ds_error_message(), "no threads today");
  test.output.expect_untouched();
  test.sum.expect_untouched();
}

// One element seen as rows of 2^48 columns: scratch for such a row cannot be had, and nothing else is
// touched.
TEST_P(LayerNormCpu, ReportsThatMemoryRanOut) {
  for (const ds_parallel_for_fn parallel_for :
       {ds_parallel_for_fn{nullptr}, ds_parallel_for_fn{parallel_threads}}) {
    layer_norm_case test(dtype, {.rows = 2, .cols = 1, .sum = true});
    test.params.cols = int64_t{1} << 48;
    test.params.input.col_stride = 0;
    EXPECT_EQ(kernels->layer_norm(&test.params, parallel_for), DS_E_MEMORY);
    EXPECT_NE(std::string(ds_error_message()).find("281474976710656 columns"), std::string::npos)
        << ds_error_message();
    test.output.expect_untouched();
    test.sum.expect_untouched();
  }
}

TEST_P(LayerNormCpu, ReportsRowsLongerThanAnyMemory) {
  layer_norm_case test(dtype, {.rows = 1, .cols = 1});
  test.params.cols = std::numeric_limits<int64_t>::max();
  test.params.input.col_stride = 0;
  EXPECT_EQ(kernels->layer_norm(&test.params, nullptr), DS_E_MEMORY);
  test.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
