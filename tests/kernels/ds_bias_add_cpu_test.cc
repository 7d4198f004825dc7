// bias_add on the CPU against float64.
#include "bias_add_case.h"
#include "parallel.h"

namespace ds_tests {
namespace {

class BiasAddCpu : public cpu_kernel_test {
protected:
  void run_and_check(const bias_add_options &options) {
    bias_add_case test(dtype, options);
    ASSERT_EQ(kernels->bias_add(&test.params, nullptr), DS_OK);
    test.expect_result();
  }
};

INSTANTIATE_TEST_SUITE_P(Cpu, BiasAddCpu, each_capability_and_dtype(), name_of_case);

TEST_P(BiasAddCpu, MatchesReferenceForAnyColumns) {
  for (const int64_t cols : interesting_cols()) {
    run_and_check({.rows = 3, .cols = cols});
    run_and_check({.rows = 3, .cols = cols, .other = true, .other_bias = true});
  }
}

TEST_P(BiasAddCpu, MatchesReferenceForAnyRows) {
  for (const int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 17, 320}) run_and_check({.rows = rows, .cols = cols, .other = true});
}

TEST_P(BiasAddCpu, MatchesReferenceForAnyRowsOfColumnMajorTensors) {
  for (const int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 7, 8, 9, 33})
      run_and_check({.rows = rows,
                     .cols = cols,
                     .other = true,
                     .other_bias = true,
                     .input_layout = layout::column_major,
                     .other_layout = layout::column_major,
                     .output_layout = layout::column_major});
}

TEST_P(BiasAddCpu, MatchesReferenceWithAnyOptionalOperands) {
  for (const layout where : {layout::contiguous, layout::column_major, layout::spread_columns})
    for (unsigned choice = 0; choice < 8; choice++)
      run_and_check({.rows = 6,
                     .cols = 37,
                     .bias = (choice & 1) != 0,
                     .other = (choice & 2) != 0,
                     .other_bias = (choice & 4) != 0 && (choice & 2) != 0,
                     .input_layout = where,
                     .other_layout = where,
                     .output_layout = where});
}

TEST_P(BiasAddCpu, MatchesReferenceInAnyLayouts) {
  for (const layout input : layouts_of_inputs())
    for (const layout other : layouts_of_inputs())
      for (const layout output : layouts_of_outputs())
        run_and_check({.rows = 34,
                       .cols = 19,
                       .other = true,
                       .input_layout = input,
                       .other_layout = other,
                       .output_layout = output});
}

TEST_P(BiasAddCpu, MatchesReferenceAcrossTiles) {
  for (const layout input : {layout::contiguous, layout::column_major, layout::spread_columns})
    for (const layout output : {layout::contiguous, layout::column_major, layout::spread_columns})
      for (const auto &[rows, cols] :
           {std::pair{2, 261}, std::pair{130, 130}, std::pair{1202, 11}, std::pair{8300, 3}})
        run_and_check({.rows = rows, .cols = cols, .input_layout = input, .output_layout = output});
}

TEST_P(BiasAddCpu, NegativeZeroKeepsItsSignWithoutABias) {
  bias_add_case test(dtype, {.rows = 1, .cols = 20, .bias = false});
  for (int64_t col = 0; col < 20; col++) test.input.write(0, col, -0.0);
  ASSERT_EQ(kernels->bias_add(&test.params, nullptr), DS_OK);
  for (int64_t col = 0; col < 20; col++) EXPECT_TRUE(std::signbit(test.output.at(0, col)));
}

TEST_P(BiasAddCpu, NonFiniteNumbersPass) {
  bias_add_case test(dtype, {.rows = 1, .cols = 20});
  const double infinity = std::numeric_limits<double>::infinity();
  test.input.write(0, 3, infinity);
  test.input.write(0, 4, -infinity);
  test.input.write(0, 5, std::nan(""));
  ASSERT_EQ(kernels->bias_add(&test.params, nullptr), DS_OK);
  EXPECT_EQ(test.output.at(0, 3), infinity);
  EXPECT_EQ(test.output.at(0, 4), -infinity);
  for (int64_t col = 0; col < 20; col++) EXPECT_EQ(std::isnan(test.output.at(0, col)), col == 5);
}

TEST_P(BiasAddCpu, NoElementsTouchNothing) {
  ds_bias_add_params params = {};
  params.dtype = dtype;
  params.cols = 8;
  params.input = params.output = ds_rows_contiguous(nullptr, 0, 8);
  EXPECT_EQ(kernels->bias_add(&params, nullptr), DS_OK);
  params.rows = 5;
  params.cols = 0;
  EXPECT_EQ(kernels->bias_add(&params, nullptr), DS_OK);
}

TEST_P(BiasAddCpu, ThreadsChangeNothing) {
  for (const layout where : {layout::contiguous, layout::column_major, layout::spread_columns}) {
    const bias_add_options options = {
        .rows = 602, .cols = 161, .other = true, .input_layout = where, .output_layout = where};
    bias_add_case alone(dtype, options), backwards(dtype, options), threads(dtype, options);
    ASSERT_EQ(kernels->bias_add(&alone.params, nullptr), DS_OK);
    ASSERT_EQ(kernels->bias_add(&backwards.params, parallel_backwards), DS_OK);
    ASSERT_EQ(kernels->bias_add(&threads.params, parallel_threads), DS_OK);
    EXPECT_EQ(backwards.output.bits(), alone.output.bits());
    EXPECT_EQ(threads.output.bits(), alone.output.bits());
  }
}

TEST_P(BiasAddCpu, ReportsAFailureOfTheThreads) {
  bias_add_case test(dtype, {.rows = 3, .cols = 5});
  EXPECT_EQ(kernels->bias_add(&test.params, parallel_failure), DS_E_SERVICE);
  test.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
