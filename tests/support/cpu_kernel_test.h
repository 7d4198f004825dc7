// Base of the tests that run over each instruction-set level and each dtype.
#ifndef DS_TESTS_CPU_KERNEL_TEST_H
#define DS_TESTS_CPU_KERNEL_TEST_H

#include "cpu/ds_cpu_dispatch.h"
#include "matrix.h"
#include <tuple>

namespace ds_tests {

class cpu_kernel_test : public testing::TestWithParam<std::tuple<const char *, ds_dtype>> {
protected:
  void SetUp() override {
    const char *capability = std::get<0>(GetParam());
    ASSERT_EQ(ds_cpu_kernels_for(capability, &kernels), DS_OK);
    if (std::string(kernels->capability) != capability) GTEST_SKIP() << "this processor lacks " << capability;
    dtype = std::get<1>(GetParam());
  }

  const ds_cpu_kernels *kernels = nullptr;
  ds_dtype dtype = DS_FLOAT32;
};

inline std::string name_of_case(const testing::TestParamInfo<std::tuple<const char *, ds_dtype>> &info) {
  return std::string(std::get<0>(info.param)) + "_" + ds_dtype_name(std::get<1>(info.param));
}

inline auto each_capability_and_dtype() {
  return testing::Combine(testing::Values("default", "avx2", "avx512"),
                          testing::Values(DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16));
}

inline auto each_capability_and_16_bit_dtype() {
  return testing::Combine(testing::Values("default", "avx2", "avx512"),
                          testing::Values(DS_FLOAT16, DS_BFLOAT16));
}

// Rounding of one float32 operation, relative.
constexpr double float32_rounding = 5.9604644775390625e-08;

// The result is as near to `expected` as float32 arithmetic with an error of `arithmetic`, and one rounding
// to `dtype`, can be. where() says which element it is.
template <typename Where>
void expect_near(ds_dtype dtype, double result, double expected, double arithmetic, const Where &where) {
  const double bound = arithmetic + unit_at(dtype, std::abs(expected) + arithmetic) / 2;
  if (!(std::abs(result - expected) <= bound))
    FAIL() << where() << ": " << result << ", expected " << expected << " within " << bound;
}

// Column counts around each vector width and tile width, primes, and those of the models.
inline std::vector<int64_t> interesting_cols() {
  return {1,   2,   3,   4,   5,    7,    8,    9,    15,   16,   17,   31,   32,
          33,  47,  61,  63,  64,   65,   127,  128,  129,  255,  257,  320,  511,
          512, 513, 640, 768, 1009, 1024, 1152, 1280, 2047, 2048, 2049, 2560, 4099};
}

inline std::vector<int64_t> interesting_rows() {
  return {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 130};
}

} // namespace ds_tests

#endif
