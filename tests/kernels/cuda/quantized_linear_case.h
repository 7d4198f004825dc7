// Operands of one linear with an int8 weight on the device, and what the result must be.
#ifndef DS_TESTS_QUANTIZED_LINEAR_CASE_H
#define DS_TESTS_QUANTIZED_LINEAR_CASE_H

#include "gated_linear_case.h"

namespace ds_tests {

struct quantized_linear_options {
  int64_t rows;
  int64_t in_features;
  int64_t cols;
  ds_activation_type gate = DS_ACTIVATION_UNKNOWN;
  bool bias = true;
  bool residual = false;
  int64_t padding = 0; // elements behind each row of all matrices
};

struct quantized_linear_case {
  quantized_linear_case(ds_dtype type, const quantized_linear_options &chosen)
      : dtype(type), options(chosen), weight_rows(gated() ? 2 * chosen.cols : chosen.cols),
        input(padded(chosen.rows, chosen.in_features, 1)),
        // Rows of the weight always begin at multiples of what the copy engine wants.
        weight(DS_INT8, weight_rows, (chosen.in_features + 15) / 16 * 16 + 2 * chosen.padding,
               layout::contiguous, random_values(2, -0.5, 127.5)),
        scale(DS_FLOAT32, 1, weight_rows, layout::second_element,
              random_values(3, 0.02 / std::sqrt(chosen.in_features), 0.02 / std::sqrt(chosen.in_features))),
        bias(type, 1, weight_rows, layout::second_element, random_values(4)),
        residual(padded(chosen.rows, chosen.cols, 5)),
        output(type, chosen.rows, chosen.cols + chosen.padding, layout::contiguous),
        untouched(chosen.rows > 0 ? output.at(0, 0) : 0),
        copies({&input, &weight, &scale, &bias, &residual, &output}) {
    params = {};
    params.dtype = dtype;
    params.rows = options.rows;
    params.in_features = options.in_features;
    params.cols = options.cols;
    params.input = copies.at(input.data());
    params.input_row_stride = input.cols();
    params.weight = static_cast<const int8_t *>(copies.at(weight.data()));
    params.weight_row_stride = weight.cols();
    params.scale = static_cast<const float *>(copies.at(scale.data()));
    params.bias = options.bias ? copies.at(bias.data()) : nullptr;
    params.gate = options.gate;
    params.residual = options.residual ? copies.at(residual.data()) : nullptr;
    params.residual_row_stride = residual.cols();
    params.output = copies.at(output.data());
    params.output_row_stride = output.cols();
  }

  bool gated() const { return options.gate != DS_ACTIVATION_UNKNOWN; }

  // Compares the outputs of these rows.
  void expect_rows(const std::vector<int64_t> &rows) const {
    std::vector<double> weights;
    for (int64_t row = 0; row < weight_rows; row++)
      for (int64_t col = 0; col < options.in_features; col++) weights.push_back(weight.at(row, col));
    for (const int64_t row : rows) {
      std::vector<double> inputs;
      for (int64_t col = 0; col < options.in_features; col++) inputs.push_back(input.at(row, col));
      for (int64_t col = 0; col < options.cols && !testing::Test::HasFatalFailure(); col++)
        expect_element(row, col, inputs, weights);
    }
  }

  void expect_result() const { expect_whole_result(*this); }

  bool serves(const ds_cuda_module &module) const { return module.quantized_linear_serves(&params) != 0; }
  ds_status call(const ds_cuda_module &module, cudaStream_t stream) const {
    return module.quantized_linear(&params, stream);
  }

  ds_dtype dtype;
  quantized_linear_options options;
  int64_t weight_rows;
  matrix input, weight, scale, bias, residual, output;
  double untouched; // the value of an element that was never written
  device_copies copies;
  ds_quantized_linear_params params;

private:
  struct sum {
    double value, error;
  };

  // NaN behind the columns: what is read there shows.
  matrix padded(int64_t rows, int64_t cols, unsigned seed) const {
    const auto values = random_values(seed);
    const int64_t width = (cols + 7) / 8 * 8 + options.padding;
    return matrix(dtype, rows, width, layout::contiguous, [=](int64_t row, int64_t col) {
      return col < cols ? values(row, col) : std::numeric_limits<double>::quiet_NaN();
    });
  }

  // One element of the product with scale and bias, and how far float32 sums may be from it: the units that
  // multiply matrices cut off what they add up, instead of rounding it.
  sum linear(int64_t col, const std::vector<double> &inputs, const std::vector<double> &weights) const {
    double value = 0, magnitude = 0;
    for (size_t i = 0; i < inputs.size(); i++) {
      const double product = inputs[i] * weights[static_cast<size_t>(col) * inputs.size() + i];
      value += product;
      magnitude += std::abs(product);
    }
    const double factor = scale.at(0, col), b = options.bias ? bias.at(0, col) : 0;
    return {value * factor + b, 16 * float32_rounding * (magnitude * std::abs(factor) + std::abs(b))};
  }

  void expect_element(int64_t row, int64_t col, const std::vector<double> &inputs,
                      const std::vector<double> &weights) const {
    const sum value = linear(col, inputs, weights);
    double expected = value.value, arithmetic = value.error;
    if (gated()) {
      const sum gate = linear(options.cols + col, inputs, weights);
      const bool silu = options.gate == DS_ACTIVATION_GATED_SILU;
      const double activated = silu ? silu_reference(gate.value) : gelu_reference(gate.value);
      // Slopes of the activations are below 1.2.
      const double activation_error = fast_activation_error(options.gate, gate.value) + 1.2 * gate.error;
      expected *= activated;
      arithmetic =
          value.error * std::abs(activated) + (std::abs(value.value) + value.error) * activation_error;
    } else if (options.residual) {
      expected += residual.at(row, col);
      arithmetic += float32_rounding * std::abs(expected);
    }
    expect_near(dtype, output.at(row, col), expected, arithmetic, [&] {
      return std::to_string(options.rows) + "x" + std::to_string(options.in_features) + "x" +
             std::to_string(options.cols) + (gated() ? " gated" : "") + (options.bias ? " bias" : "") +
             (options.residual ? " residual" : "") + " (" + std::to_string(row) + ", " + std::to_string(col) +
             ")";
    });
  }
};

} // namespace ds_tests

#endif
