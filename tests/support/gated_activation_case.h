// Operands of one gated_activation call, and what the result must be.
#ifndef DS_TESTS_GATED_ACTIVATION_CASE_H
#define DS_TESTS_GATED_ACTIVATION_CASE_H

#include "cpu_kernel_test.h"

namespace ds_tests {

// x · ½ erfc(-x / √2): without the cancellation of 1 + erf on the negative side.
inline double gelu_reference(double x) {
  return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
}

inline double silu_reference(double x) {
  return x / (1.0 + std::exp(-x));
}

struct gated_activation_options {
  int64_t rows;
  int64_t cols; // of the output
  ds_activation_type activation_type = DS_ACTIVATION_GATED_GELU;
  bool bias = true;
  layout input_layout = layout::contiguous;
  layout output_layout = layout::contiguous; // contiguous at some address
  double width = 6.0;
  // What the activation of a gate may be off by, beyond a few roundings.
  double (*activation_error)(ds_activation_type, double gate) = nullptr;
};

struct gated_activation_case {
  gated_activation_case(ds_dtype type, const gated_activation_options &chosen)
      : dtype(type), options(chosen),
        input(type, chosen.rows, 2 * chosen.cols, chosen.input_layout, random_values(1, 0.0, chosen.width)),
        bias(type, 1, 2 * chosen.cols, layout::contiguous, random_values(2)),
        output(type, chosen.rows, chosen.cols, chosen.output_layout) {
    params = {};
    params.dtype = dtype;
    params.rows = options.rows;
    params.cols = options.cols;
    params.input = input.view();
    params.bias = options.bias ? bias.data() : nullptr;
    params.activation_type = options.activation_type;
    params.output = output.data();
  }

  void expect_result() const {
    for (int64_t row = 0; row < options.rows; row++)
      for (int64_t col = 0; col < options.cols && !testing::Test::HasFatalFailure(); col++)
        expect_element(row, col);
    output.expect_untouched_around();
  }

  ds_dtype dtype;
  gated_activation_options options;
  matrix input, bias, output;
  ds_gated_activation_params params;

private:
  void expect_element(int64_t row, int64_t col) const {
    const double value = input.at(row, col) + (options.bias ? bias.at(0, col) : 0);
    const double gate =
        input.at(row, options.cols + col) + (options.bias ? bias.at(0, options.cols + col) : 0);
    const double activated =
        options.activation_type == DS_ACTIVATION_GATED_SILU ? silu_reference(gate) : gelu_reference(gate);
    // The gate's sum is rounded before the activation (whose slope is below 1.2); the activation itself and
    // the products are good to a few units.
    double arithmetic = float32_rounding * (1.2 * std::abs(value * gate) * (options.bias ? 1 : 0) +
                                            12 * std::abs(value * activated));
    if (options.activation_error != nullptr)
      arithmetic += options.activation_error(options.activation_type, gate) * std::abs(value);
    expect_near(dtype, output.at(row, col), value * activated, arithmetic, [&] {
      return name_of(options.input_layout) + " " + std::to_string(options.rows) + "x" +
             std::to_string(options.cols) + " (" + std::to_string(row) + ", " + std::to_string(col) +
             ") value " + std::to_string(value) + " gate " + std::to_string(gate);
    });
  }
};

} // namespace ds_tests

#endif
