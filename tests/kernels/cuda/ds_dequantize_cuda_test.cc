// dequantize on a GPU against float64.
#include "cuda_kernel_test.h"
#include "dequantize_case.h"

namespace ds_tests {
namespace {

class DequantizeCuda : public cuda_dtype_test {
protected:
  void run_and_check(const dequantize_options &options) {
    dequantize_case test(dtype, options);
    const device_copies copies({&test.weight, &test.scale, &test.output});
    ds_dequantize_params params = test.params;
    params.weight = static_cast<const int8_t *>(copies.at(test.params.weight));
    params.scale = static_cast<const float *>(copies.at(test.params.scale));
    params.output = copies.at(test.params.output);
    ASSERT_EQ(module->dequantize(&params, stream), DS_OK) << module->error_message();
    wait();
    copies.fetch();
    test.expect_result();
  }
};

INSTANTIATE_TEST_SUITE_P(Gpu, DequantizeCuda, each_dtype(), name_of_dtype);

TEST_P(DequantizeCuda, MatchesReferenceForAnySizes) {
  for (const int64_t cols : interesting_cols()) run_and_check({.rows = 3, .cols = cols});
  for (const int64_t rows : interesting_rows())
    for (const int64_t cols : {1, 37, 40, 320}) run_and_check({.rows = rows, .cols = cols});
}

TEST_P(DequantizeCuda, MatchesReferenceForModels) {
  run_and_check({.rows = 640, .cols = 1280});
  run_and_check({.rows = 72, .cols = 5120, .groups = 40});
}

TEST_P(DequantizeCuda, EachGroupHasItsScale) {
  for (const int64_t groups : {1, 2, 3, 5, 8})
    for (const int64_t group : {1, 4, 7, 8, 16, 64, 129, 1025})
      run_and_check({.rows = 5, .cols = groups * group, .groups = groups});
}

TEST_P(DequantizeCuda, MatchesReferenceInAnyLayout) {
  for (const layout weight : layouts_of_weights())
    for (const layout output : {layout::contiguous, layout::second_element})
      for (const int64_t groups : {1, 2})
        for (const int64_t cols : {74, 96})
          run_and_check({.rows = 6,
                         .cols = cols,
                         .groups = groups,
                         .weight_layout = weight,
                         .scale_layout = layout::second_element,
                         .output_layout = output});
}

TEST_P(DequantizeCuda, NoElementsTouchNothing) {
  ds_dequantize_params params = {};
  params.dtype = dtype;
  params.groups = 1;
  params.cols = 8;
  EXPECT_EQ(module->dequantize(&params, stream), DS_OK);
  params.rows = 5;
  params.cols = 0;
  EXPECT_EQ(module->dequantize(&params, stream), DS_OK);
}

} // namespace
} // namespace ds_tests
