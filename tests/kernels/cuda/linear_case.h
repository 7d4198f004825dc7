// Operands of one matrix product on the device, and what the result must be.
#ifndef DS_TESTS_LINEAR_CASE_H
#define DS_TESTS_LINEAR_CASE_H

#include "cpu_kernel_test.h"
#include "cuda_kernel_test.h"

namespace ds_tests {

struct linear_options {
  int64_t rows;
  int64_t in_features;
  int64_t out_features;
  bool bias = false;
  bool residual = false;
  layout input_layout = layout::contiguous;
  layout weight_layout = layout::contiguous;
  layout bias_layout = layout::contiguous;
  layout residual_layout = layout::contiguous;
  layout output_layout = layout::contiguous;
  bool allow_tf32 = false;
};

struct linear_case {
  linear_case(ds_dtype type, const linear_options &chosen)
      : dtype(type), options(chosen),
        input(type, chosen.rows, chosen.in_features, chosen.input_layout, random_values(1)),
        weight(type, chosen.out_features, chosen.in_features, chosen.weight_layout, random_values(2)),
        bias(type, 1, chosen.out_features, chosen.bias_layout, random_values(3)),
        residual(type, chosen.rows, chosen.out_features, chosen.residual_layout, random_values(4)),
        output(type, chosen.rows, chosen.out_features, chosen.output_layout),
        copies({&input, &weight, &bias, &residual, &output}) {
    params = {};
    params.dtype = dtype;
    params.allow_tf32 = options.allow_tf32;
    params.rows = options.rows;
    params.in_features = options.in_features;
    params.out_features = options.out_features;
    params.input = copies.at(input.data());
    params.input_row_stride = input.view().strides[0];
    params.weight = copies.at(weight.data());
    params.weight_row_stride = weight.view().strides[0];
    params.bias = options.bias ? copies.at(bias.data()) : nullptr;
    params.residual = options.residual ? copies.at(residual.data()) : nullptr;
    params.residual_row_stride = residual.view().strides[0];
    params.output = copies.at(output.data());
    params.output_row_stride = output.view().strides[0];
  }

  // The largest error of an element, in units of what rounding to float32 would lose.
  double largest_error() const {
    const std::vector<double> inputs = numbers(input), weights = numbers(weight);
    const auto in = static_cast<size_t>(options.in_features);
    double largest = 0;
    for (int64_t row = 0; row < options.rows; row++)
      for (int64_t col = 0; col < options.out_features; col++) {
        const expectation expected = expected_at(row, col, &inputs[static_cast<size_t>(row) * in],
                                                 &weights[static_cast<size_t>(col) * in]);
        largest = std::max(largest, std::abs(output.at(row, col) - expected.sum) /
                                        (float32_rounding * expected.magnitude));
      }
    return largest;
  }

  void expect_result() const {
    const std::vector<double> inputs = numbers(input), weights = numbers(weight);
    const auto in = static_cast<size_t>(options.in_features);
    for (int64_t row = 0; row < options.rows; row++)
      for (int64_t col = 0; col < options.out_features && !testing::Test::HasFatalFailure(); col++)
        expect_element(row, col, &inputs[static_cast<size_t>(row) * in],
                       &weights[static_cast<size_t>(col) * in]);
    output.expect_untouched_around();
  }

  ds_dtype dtype;
  linear_options options;
  matrix input, weight, bias, residual, output;
  device_copies copies;
  ds_linear_params params;

private:
  static constexpr double tf32_rounding = 0x1p-10; // of a number that is cut off, not rounded

  static std::vector<double> numbers(const matrix &from) {
    std::vector<double> all;
    for (int64_t row = 0; row < from.rows(); row++)
      for (int64_t col = 0; col < from.cols(); col++) all.push_back(from.at(row, col));
    all.push_back(0.0); // so that there is a first one to point to
    return all;
  }

  struct expectation {
    double sum;
    double magnitude; // the sum of what was added up, without signs
  };

  expectation expected_at(int64_t row, int64_t col, const double *inputs, const double *weights) const {
    const double b = options.bias ? bias.at(0, col) : 0, r = options.residual ? residual.at(row, col) : 0;
    expectation expected = {b + r, std::abs(b) + std::abs(r)};
    for (int64_t i = 0; i < options.in_features; i++) {
      expected.sum += inputs[i] * weights[i];
      expected.magnitude += std::abs(inputs[i] * weights[i]);
    }
    return expected;
  }

  void expect_element(int64_t row, int64_t col, const double *inputs, const double *weights) const {
    const auto [sum, magnitude] = expected_at(row, col, inputs, weights);
    const double b = options.bias ? bias.at(0, col) : 0, r = options.residual ? residual.at(row, col) : 0;
    // Some units that multiply matrices cut off what they add up, instead of rounding it: far below what sums
    // kept in 16 bits, or products of TF32, would lose.
    double arithmetic = 16 * float32_rounding * magnitude;
    if (options.allow_tf32 && dtype == DS_FLOAT32) arithmetic += 2 * tf32_rounding * magnitude;
    // For sizes and alignments that its fast kernels do not take, cuBLASLt rounds the product, with or
    // without the residual, before it adds the bias.
    if (options.bias || options.residual)
      arithmetic += unit_at(dtype, std::max(std::abs(sum - b), std::abs(sum - b - r))) / 2;
    expect_near(dtype, output.at(row, col), sum, arithmetic, [&] {
      return std::to_string(options.rows) + "x" + std::to_string(options.in_features) + "x" +
             std::to_string(options.out_features) + (options.bias ? " bias " : " ") +
             (options.residual ? "residual " : "") + name_of(options.input_layout) + " · " +
             name_of(options.weight_layout) + " + " + name_of(options.residual_layout) + " -> " +
             name_of(options.output_layout) + " (" + std::to_string(row) + ", " + std::to_string(col) + ")";
    });
  }
};

} // namespace ds_tests

#endif
