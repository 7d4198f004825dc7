// gated_activation on a GPU against float64.
#include "cuda_cases.h"

namespace ds_tests {
namespace {

constexpr ds_activation_type both[] = {DS_ACTIVATION_GATED_GELU, DS_ACTIVATION_GATED_SILU};
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

class GatedActivationCuda : public cuda_dtype_test {
protected:
  void run(cuda_gated_activation_case *test) {
    ASSERT_EQ(module->gated_activation(&test->params, stream), DS_OK) << module->error_message();
    wait();
    test->copies.fetch();
  }

  void run_and_check(const gated_activation_options &options) {
    cuda_gated_activation_case test(dtype, options);
    run(&test);
    test.expect_result();
  }

  // The activation of one gate, times 1.
  double activate(ds_activation_type activation_type, double gate) {
    cuda_gated_activation_case test(
        dtype, {.rows = 1, .cols = 1, .activation_type = activation_type, .bias = false});
    test.input.write(0, 0, 1.0);
    test.input.write(0, 1, gate);
    test.copies.send();
    run(&test);
    return test.output.at(0, 0);
  }
};

INSTANTIATE_TEST_SUITE_P(Gpu, GatedActivationCuda, each_dtype(), name_of_dtype);

TEST_P(GatedActivationCuda, MatchesReferenceForAnyColumns) {
  for (const ds_activation_type type : both)
    for (const int64_t cols : cuda_cols()) run_and_check({.rows = 3, .cols = cols, .activation_type = type});
}

TEST_P(GatedActivationCuda, MatchesReferenceForAnyRows) {
  for (const int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 17, 40, 320}) run_and_check({.rows = rows, .cols = cols});
}

TEST_P(GatedActivationCuda, MatchesReferenceForModels) {
  for (const ds_activation_type type : both)
    for (const int64_t cols : {1280, 2560, 5120})
      run_and_check({.rows = 72, .cols = cols, .activation_type = type});
}

TEST_P(GatedActivationCuda, MatchesReferenceWithoutBias) {
  for (const ds_activation_type type : both)
    for (const int64_t cols : {1, 16, 37, 2560})
      run_and_check({.rows = 9, .cols = cols, .activation_type = type, .bias = false});
}

TEST_P(GatedActivationCuda, MatchesReferenceInAnyLayout) {
  for (const layout input : cuda_layouts(layouts_of_inputs()))
    for (const bool bias : {false, true})
      for (const int64_t rows : {1, 6, 34, 70, 130})
        for (const int64_t cols : {1, 16, 150})
          run_and_check({.rows = rows, .cols = cols, .bias = bias, .input_layout = input});
}

TEST_P(GatedActivationCuda, WritesAtAnyAddress) {
  for (const int64_t cols : {1, 15, 64, 100})
    run_and_check({.rows = 3, .cols = cols, .output_layout = layout::second_element});
}

TEST_P(GatedActivationCuda, MatchesReferenceForLongRows) {
  run_and_check({.rows = 2, .cols = 200003});
  run_and_check({.rows = 2, .cols = 200000});
  run_and_check({.rows = 2, .cols = 20011, .input_layout = layout::column_major});
}

TEST_P(GatedActivationCuda, KeepsItsAccuracyForLargeGates) {
  run_and_check({.rows = 4, .cols = 4099, .width = 13.0});
  run_and_check({.rows = 4, .cols = 4099, .activation_type = DS_ACTIVATION_GATED_SILU, .width = 60.0});
}

TEST_P(GatedActivationCuda, SpecialGatesGiveWhatPyTorchGives) {
  for (const ds_activation_type type : both) {
    EXPECT_EQ(activate(type, infinity), infinity);
    EXPECT_TRUE(std::isnan(activate(type, -infinity)));
    EXPECT_TRUE(std::isnan(activate(type, nan)));
    EXPECT_EQ(activate(type, 0.0), 0.0);
    EXPECT_EQ(activate(type, -0.0), 0.0);
    EXPECT_TRUE(std::signbit(activate(type, -0.0)));
    const double largest = dtype == DS_FLOAT16 ? 65504.0 : 1e38;
    for (const double gate : {200.0, 30000.0, largest}) {
      EXPECT_EQ(activate(type, gate), round_to(dtype, gate));
      EXPECT_EQ(activate(type, -gate), 0.0);
      EXPECT_TRUE(std::signbit(activate(type, -gate)));
    }
  }
}

TEST_P(GatedActivationCuda, NonFiniteValuesAreMultiplied) {
  for (const double value : {infinity, -infinity, nan}) {
    cuda_gated_activation_case test(dtype, {.rows = 1, .cols = 1, .bias = false});
    test.input.write(0, 0, value);
    test.input.write(0, 1, 1.0);
    test.copies.send();
    run(&test);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(test.output.at(0, 0)));
    } else {
      EXPECT_EQ(test.output.at(0, 0), value);
    }
  }
}

TEST_P(GatedActivationCuda, NoElementsTouchNothing) {
  ds_gated_activation_params params = {};
  params.dtype = dtype;
  params.activation_type = DS_ACTIVATION_GATED_GELU;
  params.cols = 8;
  params.input = ds_rows_contiguous(nullptr, 0, 16);
  EXPECT_EQ(module->gated_activation(&params, stream), DS_OK);
  params.rows = 5;
  params.cols = 0;
  EXPECT_EQ(module->gated_activation(&params, stream), DS_OK);
}

} // namespace
} // namespace ds_tests
