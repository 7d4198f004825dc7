// layer_norm on a GPU against float64.
#include "cuda_cases.h"

namespace ds_tests {
namespace {

class LayerNormCuda : public cuda_dtype_test {
protected:
  void run(cuda_layer_norm_case *test) {
    ASSERT_EQ(module->layer_norm(&test->params, stream), DS_OK) << module->error_message();
    wait();
    test->copies.fetch();
  }

  void run_and_check(const layer_norm_options &options) {
    cuda_layer_norm_case test(dtype, options);
    run(&test);
    test.expect_result();
  }
};

INSTANTIATE_TEST_SUITE_P(Gpu, LayerNormCuda, each_dtype(), name_of_dtype);

TEST_P(LayerNormCuda, MatchesReferenceForAnyColumns) {
  for (const int64_t cols : cuda_cols()) {
    run_and_check({.rows = 3, .cols = cols});
    run_and_check({.rows = 3, .cols = cols, .bias = true, .residual = true, .sum = true});
  }
}

TEST_P(LayerNormCuda, MatchesReferenceForAnyRows) {
  for (const int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 17, 40, 320, 1280}) run_and_check({.rows = rows, .cols = cols});
}

TEST_P(LayerNormCuda, MatchesReferenceForModels) {
  for (const int64_t cols : {320, 640, 1152, 1280}) {
    run_and_check({.rows = 516, .cols = cols});
    run_and_check({.rows = 144, .cols = cols, .bias = true, .residual = true, .sum = true});
    run_and_check({.rows = 154, .cols = cols, .sum = true, .input_layout = layout::column_major});
  }
}

// So many rows that each has few threads, which have several vectors of it.
TEST_P(LayerNormCuda, MatchesReferenceForManyRows) {
  const auto rows_of = [](int64_t cols) { return 1800000 / cols + 3; };
  for (const int64_t cols : {160, 320, 640, 1280}) {
    run_and_check({.rows = rows_of(cols), .cols = cols});
    run_and_check({.rows = rows_of(cols), .cols = cols, .bias = true, .residual = true, .sum = true});
  }
  run_and_check({.rows = rows_of(320), .cols = 320, .beta = false});
  run_and_check({.rows = rows_of(320), .cols = 320, .sum = true});
  for (const int64_t cols : {24, 328, 1152, 2568})
    run_and_check({.rows = rows_of(cols), .cols = cols, .bias = true, .residual = true, .sum = true});
  run_and_check({.rows = rows_of(640) - 1, .cols = 640, .input_layout = layout::blocks});
}

TEST_P(LayerNormCuda, MatchesReferenceWithAnyOptionalOperands) {
  for (unsigned choice = 0; choice < 32; choice++)
    for (const layout where : {layout::contiguous, layout::second_element, layout::column_major})
      run_and_check({.rows = 4,
                     .cols = 160,
                     .gamma = (choice & 1) != 0,
                     .beta = (choice & 2) != 0,
                     .bias = (choice & 4) != 0,
                     .residual = (choice & 8) != 0,
                     .sum = (choice & 16) != 0,
                     .input_layout = where});
}

TEST_P(LayerNormCuda, MatchesReferenceInAnyLayout) {
  for (const layout input : cuda_layouts(layouts_of_inputs()))
    for (const layout residual : cuda_layouts(layouts_of_inputs()))
      for (const int64_t rows : {1, 6, 34})
        for (const int64_t cols : {37, 64})
          run_and_check({.rows = rows,
                         .cols = cols,
                         .residual = true,
                         .sum = true,
                         .input_layout = input,
                         .residual_layout = residual});
}

TEST_P(LayerNormCuda, MatchesReferenceInAnyLayoutAlone) {
  for (const layout input : cuda_layouts(layouts_of_inputs()))
    for (const int64_t cols : {1, 2, 16, 129, 320, 1281})
      run_and_check({.rows = 70, .cols = cols, .sum = cols == 129, .input_layout = input});
}

TEST_P(LayerNormCuda, WritesAtAnyAddress) {
  for (const int64_t cols : {1, 15, 64, 100, 1280})
    run_and_check(
        {.rows = 3, .cols = cols, .residual = true, .sum = true, .output_layout = layout::second_element});
}

// Longer than registers and shared memory hold, in every kernel.
TEST_P(LayerNormCuda, MatchesReferenceForLongRows) {
  for (const int64_t cols : {16392, 40000, 200003}) {
    run_and_check({.rows = 2, .cols = cols});
    run_and_check({.rows = 2, .cols = cols, .bias = true, .residual = true, .sum = true});
  }
  for (const int64_t cols : {1280, 1281, 2560, 16385, 40000})
    run_and_check(
        {.rows = 18, .cols = cols, .bias = true, .sum = true, .input_layout = layout::column_major});
}

TEST_P(LayerNormCuda, KeepsItsAccuracyFarFromZero) {
  for (const int64_t cols : {64, 1280, 1281, 14432})
    run_and_check({.rows = 2, .cols = cols, .centre = 1000.0});
}

TEST_P(LayerNormCuda, NormalizesTheUnroundedSum) {
  if (dtype == DS_FLOAT32) return; // its sums are rounded to itself
  // 256 or 2048 and small numbers that the storage type loses beside them.
  const double large = dtype == DS_BFLOAT16 ? 256 : 2048;
  for (const layout where : {layout::contiguous, layout::second_element, layout::column_major}) {
    cuda_layer_norm_case test(dtype, {.rows = 2,
                                      .cols = 64,
                                      .gamma = false,
                                      .beta = false,
                                      .residual = true,
                                      .sum = true,
                                      .input_layout = where});
    for (int64_t row = 0; row < 2; row++)
      for (int64_t col = 0; col < 64; col++) {
        test.input.write(row, col, large);
        test.residual.write(row, col, col % 2 == 0 ? 0.25 : -0.25);
      }
    test.copies.send();
    run(&test);
    for (int64_t col = 0; col < 64; col++) {
      EXPECT_EQ(test.sum.at(1, col), large);
      EXPECT_NEAR(test.output.at(1, col), col % 2 == 0 ? 1.0 : -1.0, 0.01);
    }
  }
}

TEST_P(LayerNormCuda, ConstantRowsGiveBeta) {
  for (const int64_t cols : {100, 104, 320, 1281}) {
    cuda_layer_norm_case test(dtype, {.rows = 2, .cols = cols, .width = 0.0, .centre = 3.0});
    run(&test);
    for (int64_t col = 0; col < cols; col++) EXPECT_EQ(test.output.at(1, col), test.beta.at(0, col));
  }
}

TEST_P(LayerNormCuda, ConstantRowsWithoutEpsilonGiveNaN) {
  cuda_layer_norm_case test(dtype, {.rows = 1, .cols = 100, .width = 0.0, .centre = 3.0, .epsilon = 0.0f});
  run(&test);
  for (int64_t col = 0; col < 100; col++) EXPECT_TRUE(std::isnan(test.output.at(0, col)));
}

TEST_P(LayerNormCuda, NonFiniteNumbersStayInTheirRow) {
  for (const double value :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    for (const layout where : {layout::contiguous, layout::second_element, layout::column_major}) {
      cuda_layer_norm_case test(
          dtype, {.rows = 3, .cols = 40, .residual = true, .sum = true, .input_layout = where});
      test.input.write(1, 20, value);
      test.copies.send();
      run(&test);
      for (int64_t col = 0; col < 40; col++) {
        EXPECT_TRUE(std::isfinite(test.output.at(0, col)));
        EXPECT_TRUE(std::isnan(test.output.at(1, col)));
        EXPECT_TRUE(std::isfinite(test.output.at(2, col)));
      }
    }
}

TEST_P(LayerNormCuda, NoRowsTouchNothing) {
  ds_layer_norm_params params = {};
  params.dtype = dtype;
  params.cols = 8;
  params.input = ds_rows_contiguous(nullptr, 0, 8);
  EXPECT_EQ(module->layer_norm(&params, stream), DS_OK);
}

} // namespace
} // namespace ds_tests
