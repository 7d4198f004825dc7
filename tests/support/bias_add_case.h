// Operands of one bias_add call, and what the result must be.
#ifndef DS_TESTS_BIAS_ADD_CASE_H
#define DS_TESTS_BIAS_ADD_CASE_H

#include "cpu_kernel_test.h"

namespace ds_tests {

struct bias_add_options {
  int64_t rows;
  int64_t cols;
  bool bias = true;
  bool other = false;
  bool other_bias = false;
  layout input_layout = layout::contiguous;
  layout other_layout = layout::contiguous;
  layout output_layout = layout::contiguous;
};

struct bias_add_case {
  bias_add_case(ds_dtype type, const bias_add_options &chosen)
      : dtype(type), options(chosen),
        input(type, chosen.rows, chosen.cols, chosen.input_layout, random_values(1)),
        other(type, chosen.rows, chosen.cols, chosen.other_layout, random_values(2)),
        bias(type, 1, chosen.cols, layout::contiguous, random_values(3)),
        other_bias(type, 1, chosen.cols, layout::contiguous, random_values(4)),
        output(type, chosen.rows, chosen.cols, chosen.output_layout) {
    params = {};
    params.dtype = dtype;
    params.rows = options.rows;
    params.cols = options.cols;
    params.input = input.view();
    params.bias = options.bias ? bias.data() : nullptr;
    if (options.other) params.other = other.view();
    params.other_bias = options.other_bias ? other_bias.data() : nullptr;
    params.output = output.view();
  }

  void expect_result() const {
    for (int64_t row = 0; row < options.rows; row++)
      for (int64_t col = 0; col < options.cols && !testing::Test::HasFatalFailure(); col++)
        expect_element(row, col);
    output.expect_untouched_around();
  }

  ds_dtype dtype;
  bias_add_options options;
  matrix input, other, bias, other_bias, output;
  ds_bias_add_params params;

private:
  void expect_element(int64_t row, int64_t col) const {
    const double first = input.at(row, col) + (options.bias ? bias.at(0, col) : 0);
    const double second =
        (options.other ? other.at(row, col) : 0) + (options.other_bias ? other_bias.at(0, col) : 0);
    const double arithmetic =
        float32_rounding * (std::abs(first) + std::abs(second) + std::abs(first + second));
    expect_near(dtype, output.at(row, col), first + second, arithmetic, [&] {
      return name_of(options.input_layout) + " + " + name_of(options.other_layout) + " -> " +
             name_of(options.output_layout) + " " + std::to_string(options.rows) + "x" +
             std::to_string(options.cols) + " (" + std::to_string(row) + ", " + std::to_string(col) + ")";
    });
  }
};

} // namespace ds_tests

#endif
