// Base of the tests of linears that a special kernel runs where it serves. CASE holds a call's operands.
#ifndef DS_TESTS_SPECIAL_LINEAR_TEST_H
#define DS_TESTS_SPECIAL_LINEAR_TEST_H

#include "cuda_kernel_test.h"
#include <algorithm>
#include <vector>

namespace ds_tests {

// Compares all rows of a case's output, and that nothing around them was written.
template <class CASE>
void expect_whole_result(const CASE &test) {
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < test.options.rows; row++) rows.push_back(row);
  test.expect_rows(rows);
  for (int64_t row = 0; row < test.options.rows; row++)
    for (int64_t col = test.options.cols; col < test.output.cols(); col++)
      ASSERT_EQ(test.output.at(row, col), test.untouched)
          << "row " << row << ", column " << col << " was written";
  test.output.expect_untouched_around();
}

template <class CASE>
class special_linear_test : public cuda_dtype_test {
protected:
  using options_type = decltype(CASE::options);

  void SetUp() override {
    cuda_dtype_test::SetUp();
    if (IsSkipped()) return;
    const CASE any(dtype, {.rows = 1, .in_features = 16, .cols = 8});
    if (!any.serves(*module)) GTEST_SKIP() << "no kernel for this device";
  }

  void run(const CASE &test) {
    ASSERT_TRUE(test.serves(*module));
    ASSERT_EQ(test.call(*module, stream), DS_OK) << module->error_message();
    wait();
    test.copies.fetch();
  }

  void run_and_check(const options_type &options) {
    const CASE test(dtype, options);
    run(test);
    test.expect_result();
  }

  // Large ones: some rows against float64, and all elements the same in a second run on another filling.
  void run_and_check_some(const options_type &options) {
    const CASE test(dtype, options);
    run(test);
    const int64_t last = options.rows - 1;
    test.expect_rows({0, last / 2, std::min(last / 2 + 1, last), last});
    const std::vector<unsigned char> first = test.output.bits();
    check_cuda(cudaMemset(test.params.output, 0x5a, static_cast<size_t>(options.rows * options.cols) * 2));
    check_cuda(cudaDeviceSynchronize());
    run(test);
    EXPECT_TRUE(first == test.output.bits())
        << options.rows << "x" << options.in_features << "x" << options.cols;
  }
};

} // namespace ds_tests

#endif
