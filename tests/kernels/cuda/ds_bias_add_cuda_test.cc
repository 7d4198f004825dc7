// bias_add on a GPU against float64.
#include "cuda_cases.h"

namespace ds_tests {
namespace {

class BiasAddCuda : public cuda_dtype_test {
protected:
  void run(cuda_bias_add_case *test) {
    ASSERT_EQ(module->bias_add(&test->params, stream), DS_OK) << module->error_message();
    wait();
    test->copies.fetch();
  }

  void run_and_check(const bias_add_options &options) {
    cuda_bias_add_case test(dtype, options);
    run(&test);
    test.expect_result();
  }

  // Every combination of layouts that a call may meet.
  void check_layouts(int64_t rows, int64_t cols) {
    for (const layout input : cuda_layouts(layouts_of_inputs()))
      for (const layout other : cuda_layouts(layouts_of_inputs()))
        for (const layout output : cuda_layouts(layouts_of_outputs()))
          run_and_check({.rows = rows,
                         .cols = cols,
                         .other = true,
                         .other_bias = true,
                         .input_layout = input,
                         .other_layout = other,
                         .output_layout = output});
  }
};

INSTANTIATE_TEST_SUITE_P(Gpu, BiasAddCuda, each_dtype(), name_of_dtype);

TEST_P(BiasAddCuda, MatchesReferenceForAnyColumns) {
  for (const int64_t cols : cuda_cols()) {
    run_and_check({.rows = 3, .cols = cols});
    run_and_check({.rows = 3, .cols = cols, .other = true, .other_bias = true});
  }
}

TEST_P(BiasAddCuda, MatchesReferenceForAnyRows) {
  for (const int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 17, 40, 320}) run_and_check({.rows = rows, .cols = cols, .other = true});
}

TEST_P(BiasAddCuda, MatchesReferenceForAnyRowsOfColumnMajorTensors) {
  for (int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 7, 8, 9, 33, 65}) {
      const layout where = layout::column_major;
      run_and_check({.rows = rows, .cols = cols, .input_layout = where, .output_layout = where});
      run_and_check({.rows = rows * 16,
                     .cols = cols,
                     .other = true,
                     .other_bias = true,
                     .input_layout = where,
                     .other_layout = where,
                     .output_layout = where});
    }
}

TEST_P(BiasAddCuda, MatchesReferenceWithAnyOptionalOperands) {
  for (const layout where :
       {layout::contiguous, layout::second_element, layout::column_major, layout::spread_columns})
    for (unsigned choice = 0; choice < 8; choice++)
      run_and_check({.rows = 32,
                     .cols = 40,
                     .bias = (choice & 1) != 0,
                     .other = (choice & 2) != 0,
                     .other_bias = (choice & 4) != 0 && (choice & 2) != 0,
                     .input_layout = where,
                     .other_layout = where,
                     .output_layout = where});
}

TEST_P(BiasAddCuda, MatchesReferenceInAnyLayouts) {
  check_layouts(34, 19);
}

TEST_P(BiasAddCuda, MatchesReferenceInAnyLayoutsWithVectors) {
  check_layouts(32, 16);
}

TEST_P(BiasAddCuda, MatchesReferenceAcrossTiles) {
  for (const layout input : {layout::contiguous, layout::column_major, layout::spread_columns})
    for (const layout output : {layout::contiguous, layout::column_major, layout::spread_columns})
      for (const auto &[rows, cols] : {std::pair{2, 261}, std::pair{130, 130}, std::pair{1202, 11}})
        run_and_check({.rows = rows, .cols = cols, .input_layout = input, .output_layout = output});
}

// As many dimensions of rows as a view can have, none of which could be merged, in each of the kernels.
TEST_P(BiasAddCuda, FollowsEveryRowDimension) {
  constexpr int64_t sizes[DS_MAX_ROW_DIMS] = {2, 3, 1, 2, 3, 2, 2, 3}, rows = 432;
  for (const bool channels_last : {true, false})
    for (const int64_t cols : {5, 16}) {
      matrix memory(dtype, 1, 1 << 17, layout::contiguous, random_values(1));
      matrix output(dtype, rows, cols, layout::contiguous);
      const device_copies copies({&memory, &output});
      ds_bias_add_params params = {};
      params.dtype = dtype;
      params.rows = rows;
      params.cols = cols;
      params.input.data = copies.at(memory.data());
      params.input.dims = DS_MAX_ROW_DIMS;
      params.input.col_stride = channels_last ? 1 : 4;
      params.output = copies.at(output.view());
      std::vector<int64_t> offsets = {0}; // of the rows, from the outermost dimension in
      int64_t stride = 1 << 15;
      for (int dim = 0; dim < DS_MAX_ROW_DIMS; dim++, stride /= 2) {
        const bool innermost = dim == DS_MAX_ROW_DIMS - 1;
        params.input.sizes[dim] = sizes[dim];
        params.input.strides[dim] = innermost && !channels_last ? 1 : stride;
        std::vector<int64_t> inner;
        for (const int64_t offset : offsets)
          for (int64_t i = 0; i < sizes[dim]; i++) inner.push_back(offset + i * params.input.strides[dim]);
        offsets = inner;
      }
      ASSERT_EQ(module->bias_add(&params, stream), DS_OK) << module->error_message();
      wait();
      copies.fetch();
      for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < cols; col++)
          ASSERT_EQ(output.at(row, col),
                    memory.at(0, offsets[static_cast<size_t>(row)] + col * params.input.col_stride))
              << row << " " << col;
    }
}

TEST_P(BiasAddCuda, MatchesReferenceForLongRows) {
  run_and_check({.rows = 2, .cols = 200003, .other = true});
  run_and_check({.rows = 2, .cols = 200000, .other = true, .output_layout = layout::column_major});
}

TEST_P(BiasAddCuda, NegativeZeroKeepsItsSignWithoutABias) {
  for (const layout where : {layout::contiguous, layout::second_element, layout::column_major}) {
    cuda_bias_add_case test(dtype, {.rows = 1, .cols = 24, .bias = false, .input_layout = where});
    for (int64_t col = 0; col < 24; col++) test.input.write(0, col, -0.0);
    test.copies.send();
    run(&test);
    for (int64_t col = 0; col < 24; col++) EXPECT_TRUE(std::signbit(test.output.at(0, col)));
  }
}

TEST_P(BiasAddCuda, NonFiniteNumbersPass) {
  cuda_bias_add_case test(dtype, {.rows = 1, .cols = 20});
  const double infinity = std::numeric_limits<double>::infinity();
  test.input.write(0, 3, infinity);
  test.input.write(0, 4, -infinity);
  test.input.write(0, 5, std::nan(""));
  test.copies.send();
  run(&test);
  EXPECT_EQ(test.output.at(0, 3), infinity);
  EXPECT_EQ(test.output.at(0, 4), -infinity);
  for (int64_t col = 0; col < 20; col++) EXPECT_EQ(std::isnan(test.output.at(0, col)), col == 5);
}

TEST_P(BiasAddCuda, NoElementsTouchNothing) {
  ds_bias_add_params params = {};
  params.dtype = dtype;
  params.cols = 8;
  params.input = params.output = ds_rows_contiguous(nullptr, 0, 8);
  EXPECT_EQ(module->bias_add(&params, stream), DS_OK);
  params.rows = 5;
  params.cols = 0;
  EXPECT_EQ(module->bias_add(&params, stream), DS_OK);
}

} // namespace
} // namespace ds_tests
