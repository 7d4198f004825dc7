// Operands of one gated_linear call on the device, and what the result must be.
#ifndef DS_TESTS_GATED_LINEAR_CASE_H
#define DS_TESTS_GATED_LINEAR_CASE_H

#include "activation_errors.h"
#include "special_linear_test.h"

namespace ds_tests {

struct gated_linear_options {
  int64_t rows;
  int64_t in_features;
  int64_t cols; // of the output
  ds_activation_type activation_type = DS_ACTIVATION_GATED_GELU;
  bool bias = true;
  int64_t padding = 0; // columns behind those of each operand, which nothing may read or write
};

struct gated_linear_case {
  gated_linear_case(ds_dtype type, const gated_linear_options &chosen)
      : dtype(type), options(chosen), input(padded(chosen.rows, chosen.in_features, 1, 2.0)),
        weight(padded(2 * chosen.cols, chosen.in_features, 2, 4.0 / std::sqrt(chosen.in_features))),
        bias(type, 1, 2 * chosen.cols, layout::contiguous, random_values(3)),
        output(type, chosen.rows, chosen.cols + chosen.padding, layout::contiguous),
        untouched(chosen.rows > 0 ? output.at(0, 0) : 0), copies({&input, &weight, &bias, &output}) {
    params = {};
    params.dtype = dtype;
    params.rows = options.rows;
    params.in_features = options.in_features;
    params.cols = options.cols;
    params.input = copies.at(input.data());
    params.input_row_stride = input.cols();
    params.weight = copies.at(weight.data());
    params.weight_row_stride = weight.cols();
    params.bias = options.bias ? copies.at(bias.data()) : nullptr;
    params.activation_type = options.activation_type;
    params.output = copies.at(output.data());
    params.output_row_stride = output.cols();
  }

  // Compares the outputs of these rows.
  void expect_rows(const std::vector<int64_t> &rows) const {
    const std::vector<double> weights = numbers(weight, 0, 2 * options.cols);
    for (const int64_t row : rows) {
      const std::vector<double> inputs = numbers(input, row, 1);
      for (int64_t col = 0; col < options.cols && !testing::Test::HasFatalFailure(); col++)
        expect_element(row, col, inputs, weights);
    }
  }

  void expect_result() const { expect_whole_result(*this); }

  bool serves(const ds_cuda_module &module) const { return module.gated_linear_serves(&params) != 0; }
  ds_status call(const ds_cuda_module &module, cudaStream_t stream) const {
    return module.gated_linear(&params, stream);
  }

  ds_dtype dtype;
  gated_linear_options options;
  matrix input, weight, bias, output;
  double untouched; // the value of an element that was never written
  device_copies copies;
  ds_gated_linear_params params;

private:
  struct sum {
    double value, error;
  };

  // NaN behind the columns: what is read there shows.
  matrix padded(int64_t rows, int64_t cols, unsigned seed, double width) const {
    const auto values = random_values(seed, 0.0, width);
    return matrix(dtype, rows, cols + options.padding, layout::contiguous, [=](int64_t row, int64_t col) {
      return col < cols ? values(row, col) : std::numeric_limits<double>::quiet_NaN();
    });
  }

  std::vector<double> numbers(const matrix &from, int64_t first_row, int64_t rows) const {
    std::vector<double> all;
    for (int64_t row = first_row; row < first_row + rows; row++)
      for (int64_t col = 0; col < options.in_features; col++) all.push_back(from.at(row, col));
    return all;
  }

  // One element of the linear's result, and how far float32 sums may be from it: the units that multiply
  // matrices cut off what they add up, instead of rounding it.
  sum linear(int64_t col, const std::vector<double> &inputs, const std::vector<double> &weights) const {
    double value = options.bias ? bias.at(0, col) : 0, magnitude = std::abs(value);
    for (size_t i = 0; i < inputs.size(); i++) {
      const double product = inputs[i] * weights[static_cast<size_t>(col) * inputs.size() + i];
      value += product;
      magnitude += std::abs(product);
    }
    return {value, 16 * float32_rounding * magnitude};
  }

  void expect_element(int64_t row, int64_t col, const std::vector<double> &inputs,
                      const std::vector<double> &weights) const {
    const sum value = linear(col, inputs, weights), gate = linear(options.cols + col, inputs, weights);
    const bool silu = options.activation_type == DS_ACTIVATION_GATED_SILU;
    const double activated = silu ? silu_reference(gate.value) : gelu_reference(gate.value);
    // Slopes of the activations are below 1.2.
    const double activation_error =
        fast_activation_error(options.activation_type, gate.value) + 1.2 * gate.error;
    const double arithmetic =
        value.error * std::abs(activated) + (std::abs(value.value) + value.error) * activation_error;
    expect_near(dtype, output.at(row, col), value.value * activated, arithmetic, [&] {
      return std::to_string(options.rows) + "x" + std::to_string(options.in_features) + "x" +
             std::to_string(options.cols) + (options.bias ? " bias " : " ") + (silu ? "silu" : "gelu") +
             " (" + std::to_string(row) + ", " + std::to_string(col) + ") gate " + std::to_string(gate.value);
    });
  }
};

} // namespace ds_tests

#endif
