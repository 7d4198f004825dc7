// Operands of one layer_norm call, and what the result must be.
#ifndef DS_TESTS_LAYER_NORM_CASE_H
#define DS_TESTS_LAYER_NORM_CASE_H

#include "cpu_kernel_test.h"

namespace ds_tests {

struct layer_norm_options {
  int64_t rows;
  int64_t cols;
  bool gamma = true;
  bool beta = true;
  bool bias = false;
  bool residual = false;
  bool sum = false;
  layout input_layout = layout::contiguous;
  layout residual_layout = layout::contiguous;
  layout output_layout = layout::contiguous; // of output and sum: contiguous at some address
  double width = 2.0;
  double centre = 0.0;
  float epsilon = 1e-5f;
  ds_parallel_for_fn parallel_for = nullptr;
};

struct layer_norm_case {
  layer_norm_case(ds_dtype type, const layer_norm_options &chosen)
      : dtype(type), options(chosen), input(type, chosen.rows, chosen.cols, chosen.input_layout,
                                            random_values(1, chosen.centre, chosen.width)),
        residual(type, chosen.rows, chosen.cols, chosen.residual_layout, random_values(2)),
        bias(type, 1, chosen.cols, layout::contiguous, random_values(3)),
        gamma(type, 1, chosen.cols, layout::contiguous, random_values(4, 1.0, 0.5)),
        beta(type, 1, chosen.cols, layout::contiguous, random_values(5)),
        output(type, chosen.rows, chosen.cols, chosen.output_layout),
        sum(type, chosen.rows, chosen.cols, chosen.output_layout) {
    params = {};
    params.dtype = dtype;
    params.rows = options.rows;
    params.cols = options.cols;
    params.epsilon = options.epsilon;
    params.input = input.view();
    if (options.residual) params.residual = residual.view();
    params.bias = options.bias ? bias.data() : nullptr;
    params.gamma = options.gamma ? gamma.data() : nullptr;
    params.beta = options.beta ? beta.data() : nullptr;
    params.output = output.data();
    params.sum = options.sum ? sum.data() : nullptr;
  }

  void expect_result() const {
    for (int64_t row = 0; row < options.rows && !testing::Test::HasFatalFailure(); row++) expect_row(row);
    output.expect_untouched_around();
    if (options.sum)
      sum.expect_untouched_around();
    else
      sum.expect_untouched();
  }

  ds_dtype dtype;
  layer_norm_options options;
  matrix input, residual, bias, gamma, beta, output, sum;
  ds_layer_norm_params params;

private:
  std::string place(int64_t row, int64_t col) const {
    return std::to_string(options.rows) + "x" + std::to_string(options.cols) + " " +
           name_of(options.input_layout) + " + " + name_of(options.residual_layout) + " (" +
           std::to_string(row) + ", " + std::to_string(col) + ")";
  }

  void expect_row(int64_t row) const {
    const auto cols = static_cast<double>(options.cols);
    std::vector<double> s(static_cast<size_t>(options.cols));
    double largest = 0, mean = 0, variance = 0;
    for (int64_t col = 0; col < options.cols; col++) {
      const double b = options.bias ? bias.at(0, col) : 0, r = options.residual ? residual.at(row, col) : 0;
      s[static_cast<size_t>(col)] = input.at(row, col) + b + r;
      largest = std::max(largest, std::abs(input.at(row, col)) + std::abs(b) + std::abs(r));
    }
    for (const double value : s) mean += value / cols;
    for (const double value : s) variance += (value - mean) * (value - mean) / cols;
    const double scale = 1.0 / std::sqrt(variance + static_cast<double>(options.epsilon));
    for (int64_t col = 0; col < options.cols && !testing::Test::HasFatalFailure(); col++) {
      const double g = options.gamma ? gamma.at(0, col) : 1, b = options.beta ? beta.at(0, col) : 0;
      const double normal = (s[static_cast<size_t>(col)] - mean) * scale * g;
      // Rounding of the sum and of the mean, stretched by the norm; of the variance and the products; of
      // beta.
      const double arithmetic = float32_rounding * (6 * largest * scale * std::abs(g) +
                                                    16 * std::abs(normal) + 2 * std::abs(normal + b));
      expect_near(dtype, output.at(row, col), normal + b, arithmetic, [&] { return place(row, col); });
      if (options.sum)
        expect_near(dtype, sum.at(row, col), s[static_cast<size_t>(col)], 2 * float32_rounding * largest,
                    [&] { return "sum of " + place(row, col); });
    }
  }
};

} // namespace ds_tests

#endif
