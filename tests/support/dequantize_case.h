// Operands of one dequantize call, and what the result must be.
#ifndef DS_TESTS_DEQUANTIZE_CASE_H
#define DS_TESTS_DEQUANTIZE_CASE_H

#include "cpu_kernel_test.h"

namespace ds_tests {

struct dequantize_options {
  int64_t rows;
  int64_t cols;
  int64_t groups = 1;
  layout weight_layout = layout::contiguous;
  layout scale_layout = layout::contiguous;  // contiguous at some address
  layout output_layout = layout::contiguous; // contiguous at some address
};

struct dequantize_case {
  dequantize_case(ds_dtype type, const dequantize_options &chosen)
      : dtype(type), options(chosen),
        weight(DS_INT8, chosen.rows, chosen.cols, chosen.weight_layout, random_values(1, -0.5, 127.5)),
        scale(DS_FLOAT32, chosen.rows, chosen.groups, chosen.scale_layout, random_values(2, 0.01, 0.01)),
        output(type, chosen.rows, chosen.cols, chosen.output_layout) {
    params = {};
    params.dtype = dtype;
    params.rows = options.rows;
    params.cols = options.cols;
    params.weight = static_cast<const int8_t *>(weight.data());
    params.weight_row_stride = weight.view().strides[0];
    params.scale = static_cast<const float *>(scale.data());
    params.groups = options.groups;
    params.output = output.data();
  }

  void expect_result() const {
    for (int64_t row = 0; row < options.rows; row++)
      for (int64_t col = 0; col < options.cols && !testing::Test::HasFatalFailure(); col++) {
        const double factor = scale.at(row, col / (options.cols / options.groups));
        const double expected = weight.at(row, col) * factor;
        expect_near(dtype, output.at(row, col), expected, float32_rounding * std::abs(expected), [&] {
          return name_of(options.weight_layout) + " " + std::to_string(options.rows) + "x" +
                 std::to_string(options.cols) + " in " + std::to_string(options.groups) + " (" +
                 std::to_string(row) + ", " + std::to_string(col) + ")";
        });
      }
    output.expect_untouched_around();
  }

  ds_dtype dtype;
  dequantize_options options;
  matrix weight, scale, output;
  ds_dequantize_params params;
};

inline const std::vector<layout> &layouts_of_weights() {
  static const std::vector<layout> all = {layout::contiguous, layout::second_element, layout::odd_address,
                                          layout::padded_rows, layout::repeated_row};
  return all;
}

} // namespace ds_tests

#endif
