#include "cpu/ds_cpu_dispatch.h"
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <string>

namespace {

std::string chosen_for(const char *capability) {
  const ds_cpu_kernels *kernels = nullptr;
  EXPECT_EQ(ds_cpu_kernels_for(capability, &kernels), DS_OK);
  return kernels == nullptr ? "none" : kernels->capability;
}

TEST(CpuDispatch, NeverExceedsTheCapabilityAskedFor) {
  EXPECT_EQ(chosen_for("default"), "default");
  EXPECT_NE(chosen_for("avx2"), "avx512");
}

TEST(CpuDispatch, TakesTheBestWithoutARequest) {
  EXPECT_EQ(chosen_for(nullptr), chosen_for("avx512"));
  EXPECT_EQ(chosen_for(""), chosen_for("avx512"));
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    EXPECT_NE(chosen_for(nullptr), "default");
  }
#endif
}

TEST(CpuDispatch, RefusesAnUnknownCapability) {
  const ds_cpu_kernels *kernels = nullptr;
  for (const char *capability : {"AVX2", "avx", "avx2 ", "sse", "0"}) {
    EXPECT_EQ(ds_cpu_kernels_for(capability, &kernels), DS_E_VALUE);
    EXPECT_EQ(std::string(ds_error_message()), std::string("DS_DIFFUSERS_CPU_CAPABILITY is '") + capability +
                                                   "', must be default, avx2 or avx512");
  }
  EXPECT_EQ(kernels, nullptr);
}

TEST(CpuDispatch, EveryEntryOfATableIsSet) {
  for (const char *capability : {"default", "avx2", "avx512"}) {
    const ds_cpu_kernels *kernels = nullptr;
    ASSERT_EQ(ds_cpu_kernels_for(capability, &kernels), DS_OK);
#define EXPECT_SET(name) EXPECT_NE(kernels->name, nullptr);
    DS_KERNELS(EXPECT_SET)
#undef EXPECT_SET
    EXPECT_NE(kernels->load, nullptr);
    EXPECT_NE(kernels->store, nullptr);
  }
}

TEST(CpuDispatch, TheChoiceIsKept) {
  const ds_cpu_kernels *first = nullptr, *second = nullptr;
  ASSERT_EQ(ds_cpu_kernels_chosen(&first), DS_OK);
  ASSERT_EQ(ds_cpu_kernels_chosen(&second), DS_OK);
  EXPECT_EQ(first, second);
}

// The kernel lists what the processor has and the system saves the registers of.
TEST(CpuDispatch, KnowsWhichProductsTheProcessorHas) {
  EXPECT_TRUE(ds_cpu_multiplies(DS_FLOAT32));
#if defined(__x86_64__)
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.rfind("flags", 0) != 0) {
  }
  if (line.empty()) GTEST_SKIP() << "/proc/cpuinfo has no flags";
  const auto has = [&](const char *flag) {
    return (line + " ").find(std::string(" ") + flag + " ") != line.npos;
  };
  EXPECT_EQ(ds_cpu_multiplies(DS_BFLOAT16) != 0, has("avx512_bf16") || has("amx_bf16"));
  EXPECT_EQ(ds_cpu_multiplies(DS_FLOAT16) != 0, has("avx512_fp16") || has("amx_fp16"));
#endif
}

// In a process of its own, since the choice is made once.
class CpuDispatchDeathTest : public testing::Test {
protected:
  void SetUp() override { testing::GTEST_FLAG(death_test_style) = "threadsafe"; }
};

// Ends the process: 0 where the first choice with this value of the variable is as expected.
[[noreturn]] void choose_and_exit(const char *value, ds_status expected, const char *capability) {
  setenv(DS_CPU_CAPABILITY_VARIABLE, value, 1);
  const ds_cpu_kernels *kernels = nullptr;
  const ds_status status = ds_cpu_kernels_chosen(&kernels);
  const bool right =
      status == expected && (capability == nullptr || std::string(kernels->capability) == capability);
  std::_Exit(right ? 0 : 1);
}

TEST_F(CpuDispatchDeathTest, TheEnvironmentNarrowsTheChoice) {
  EXPECT_EXIT(choose_and_exit("default", DS_OK, "default"), testing::ExitedWithCode(0), "");
}

TEST_F(CpuDispatchDeathTest, AWrongEnvironmentFailsTheCall) {
  EXPECT_EXIT(choose_and_exit("fastest", DS_E_VALUE, nullptr), testing::ExitedWithCode(0), "");
}

} // namespace
