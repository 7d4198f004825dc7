// What can be seen of the tuner without a GPU.
#include "cuda/linear_tuner_cuda.h"
#include <cstdlib>
#include <gtest/gtest.h>
#include <string>

namespace {

ds_status wanted_with(const char *value, int *wanted) {
  if (value == nullptr)
    unsetenv(DS_LINEAR_TUNING_VARIABLE);
  else
    setenv(DS_LINEAR_TUNING_VARIABLE, value, 1);
  const ds_status status = ds_linear_tuning_wanted(wanted);
  unsetenv(DS_LINEAR_TUNING_VARIABLE);
  return status;
}

TEST(LinearTuner, FollowsTheEnvironment) {
  int wanted = -1;
  for (const char *value : {static_cast<const char *>(nullptr), "", "1"}) {
    EXPECT_EQ(wanted_with(value, &wanted), DS_OK);
    EXPECT_EQ(wanted, 1);
  }
  EXPECT_EQ(wanted_with("0", &wanted), DS_OK);
  EXPECT_EQ(wanted, 0);
  for (const char *value : {"no", "2", "01", " 1"}) {
    EXPECT_EQ(wanted_with(value, &wanted), DS_E_VALUE);
    EXPECT_EQ(std::string(ds_error_message()),
              std::string("DS_DIFFUSERS_LINEAR_TUNING is '") + value + "', must be 0 or 1");
  }
}

TEST(LinearTuner, ThereIsNoneForADeviceThatIsNotThere) {
  for (const int device : {-1, 127, 128, 1000}) {
    const ds_linear_tuner *tuner = nullptr;
    ds_linear_tuner_take(device, &tuner);
    EXPECT_EQ(tuner, nullptr);
    ds_linear_tuner_give();
  }
}

} // namespace
