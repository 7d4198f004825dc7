// gated_activation on the CPU against float64.
#include "gated_activation_case.h"
#include "parallel.h"

namespace ds_tests {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr ds_activation_type both[] = {DS_ACTIVATION_GATED_GELU, DS_ACTIVATION_GATED_SILU};

class GatedActivationCpu : public cpu_kernel_test {
protected:
  void run_and_check(const gated_activation_options &options) {
    gated_activation_case test(dtype, options);
    ASSERT_EQ(kernels->gated_activation(&test.params, nullptr), DS_OK);
    test.expect_result();
  }

  // The activation of one gate, times 1.
  double activate(ds_activation_type activation_type, double gate) {
    gated_activation_case test(dtype,
                               {.rows = 1, .cols = 1, .activation_type = activation_type, .bias = false});
    test.input.write(0, 0, 1.0);
    test.input.write(0, 1, gate);
    EXPECT_EQ(kernels->gated_activation(&test.params, nullptr), DS_OK);
    return test.output.at(0, 0);
  }
};

INSTANTIATE_TEST_SUITE_P(Cpu, GatedActivationCpu, each_capability_and_dtype(), name_of_case);

TEST_P(GatedActivationCpu, MatchesReferenceForAnyColumns) {
  for (const ds_activation_type type : both)
    for (const int64_t cols : interesting_cols())
      run_and_check({.rows = 3, .cols = cols, .activation_type = type});
}

TEST_P(GatedActivationCpu, MatchesReferenceForAnyRows) {
  for (const int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 17, 320}) run_and_check({.rows = rows, .cols = cols});
}

TEST_P(GatedActivationCpu, MatchesReferenceWithoutBias) {
  for (const ds_activation_type type : both)
    for (const int64_t cols : {1, 16, 37, 2560})
      run_and_check({.rows = 9, .cols = cols, .activation_type = type, .bias = false});
}

TEST_P(GatedActivationCpu, MatchesReferenceInAnyLayout) {
  for (const layout input : layouts_of_inputs())
    for (const bool bias : {false, true})
      for (const int64_t rows : {1, 6, 34, 70})
        for (const int64_t cols : {1, 16, 150})
          run_and_check({.rows = rows, .cols = cols, .bias = bias, .input_layout = input});
}

TEST_P(GatedActivationCpu, WritesAtAnyAddress) {
  for (const layout output : {layout::second_element, layout::odd_address})
    for (const int64_t cols : {1, 15, 64, 100})
      run_and_check({.rows = 3, .cols = cols, .output_layout = output});
}

TEST_P(GatedActivationCpu, MatchesReferenceForLongRows) {
  run_and_check({.rows = 2, .cols = 200003});
  run_and_check({.rows = 2, .cols = 20011, .input_layout = layout::column_major});
}

TEST_P(GatedActivationCpu, KeepsSmallResultsOfNegativeGates) {
  run_and_check({.rows = 4, .cols = 4099, .width = 13.0});
  run_and_check({.rows = 4, .cols = 4099, .activation_type = DS_ACTIVATION_GATED_SILU, .width = 60.0});
}

TEST_P(GatedActivationCpu, SpecialGatesGiveWhatPyTorchGives) {
  for (const ds_activation_type type : both) {
    EXPECT_EQ(activate(type, infinity), infinity);
    EXPECT_TRUE(std::isnan(activate(type, -infinity)));
    EXPECT_TRUE(std::isnan(activate(type, nan)));
    EXPECT_EQ(activate(type, 0.0), 0.0);
    EXPECT_EQ(activate(type, -0.0), 0.0);
    EXPECT_TRUE(std::signbit(activate(type, -0.0)));
    for (const double gate : {200.0, 30000.0}) {
      EXPECT_EQ(activate(type, gate), round_to(dtype, gate));
      EXPECT_EQ(activate(type, -gate), 0.0);
      EXPECT_TRUE(std::signbit(activate(type, -gate)));
    }
  }
}

TEST_P(GatedActivationCpu, TheLargestGatesStayFinite) {
  const double largest = dtype == DS_FLOAT16 ? 65504.0 : 1e38;
  for (const ds_activation_type type : both) {
    EXPECT_EQ(activate(type, largest), round_to(dtype, largest));
    EXPECT_EQ(activate(type, -largest), 0.0);
  }
}

TEST_P(GatedActivationCpu, NonFiniteValuesAreMultiplied) {
  for (const double value : {infinity, -infinity, nan}) {
    gated_activation_case test(dtype, {.rows = 1, .cols = 1, .bias = false});
    test.input.write(0, 0, value);
    test.input.write(0, 1, 1.0);
    ASSERT_EQ(kernels->gated_activation(&test.params, nullptr), DS_OK);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(test.output.at(0, 0)));
    } else {
      EXPECT_EQ(test.output.at(0, 0), value);
    }
  }
}

TEST_P(GatedActivationCpu, NoElementsTouchNothing) {
  ds_gated_activation_params params = {};
  params.dtype = dtype;
  params.activation_type = DS_ACTIVATION_GATED_GELU;
  params.cols = 8;
  params.input = ds_rows_contiguous(nullptr, 0, 16);
  EXPECT_EQ(kernels->gated_activation(&params, nullptr), DS_OK);
  params.rows = 5;
  params.cols = 0;
  EXPECT_EQ(kernels->gated_activation(&params, nullptr), DS_OK);
}

TEST_P(GatedActivationCpu, ThreadsChangeNothing) {
  for (const layout input : {layout::contiguous, layout::column_major}) {
    const gated_activation_options options = {.rows = 300, .cols = 161, .input_layout = input};
    gated_activation_case alone(dtype, options), backwards(dtype, options), threads(dtype, options);
    ASSERT_EQ(kernels->gated_activation(&alone.params, nullptr), DS_OK);
    ASSERT_EQ(kernels->gated_activation(&backwards.params, parallel_backwards), DS_OK);
    ASSERT_EQ(kernels->gated_activation(&threads.params, parallel_threads), DS_OK);
    EXPECT_EQ(backwards.output.bits(), alone.output.bits());
    EXPECT_EQ(threads.output.bits(), alone.output.bits());
  }
}

TEST_P(GatedActivationCpu, ReportsAFailureOfTheThreads) {
  gated_activation_case test(dtype, {.rows = 3, .cols = 5});
  EXPECT_EQ(kernels->gated_activation(&test.params, parallel_failure), DS_E_SERVICE);
  test.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
