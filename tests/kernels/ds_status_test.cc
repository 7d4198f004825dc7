#include "ds_status.h"
#include <gtest/gtest.h>
#include <string>
#include <thread>

namespace {

TEST(Status, KeepsTheMessageOfTheLastFailure) {
  EXPECT_EQ(ds_error(DS_E_SHAPE, "%s has %d columns", "gamma", 7), DS_E_SHAPE);
  EXPECT_STREQ(ds_error_message(), "gamma has 7 columns");
  EXPECT_EQ(ds_error(DS_E_DTYPE, "second"), DS_E_DTYPE);
  EXPECT_STREQ(ds_error_message(), "second");
}

TEST(Status, CutsLongMessages) {
  const std::string text(5000, 'x');
  EXPECT_EQ(ds_error(DS_E_VALUE, "%s", text.c_str()), DS_E_VALUE);
  EXPECT_EQ(std::string(ds_error_message()), text.substr(0, 1023));
}

TEST(Status, MessagesBelongToTheirThread) {
  ds_error(DS_E_VALUE, "of the main thread");
  std::thread([] {
    EXPECT_STREQ(ds_error_message(), "");
    ds_error(DS_E_VALUE, "of the other");
  }).join();
  EXPECT_STREQ(ds_error_message(), "of the main thread");
}

TEST(Status, HasANameForEachCode) {
  const char *const names[] = {"DS_OK",       "DS_E_NULL",  "DS_E_SHAPE",  "DS_E_STRIDE",      "DS_E_DTYPE",
                               "DS_E_DEVICE", "DS_E_VALUE", "DS_E_MEMORY", "DS_E_UNSUPPORTED", "DS_E_CUDA",
                               "DS_E_SERVICE"};
  for (int code = DS_OK; code <= DS_E_SERVICE; code++)
    EXPECT_STREQ(ds_status_name(static_cast<ds_status>(code)), names[code]);
}

ds_status first_failure(ds_status first, ds_status second, int *steps) {
  DS_CHECK(first);
  ++*steps;
  DS_CHECK(second);
  ++*steps;
  return DS_OK;
}

TEST(Status, CheckReturnsAtTheFirstFailure) {
  int steps = 0;
  EXPECT_EQ(first_failure(DS_OK, DS_OK, &steps), DS_OK);
  EXPECT_EQ(steps, 2);
  EXPECT_EQ(first_failure(DS_OK, DS_E_NULL, &steps), DS_E_NULL);
  EXPECT_EQ(steps, 3);
  EXPECT_EQ(first_failure(DS_E_SHAPE, DS_E_NULL, &steps), DS_E_SHAPE);
  EXPECT_EQ(steps, 3);
}

} // namespace
