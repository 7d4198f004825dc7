#include "ds_dtype.h"
#include <gtest/gtest.h>
#include <string>

namespace {

TEST(Dtype, OnlyComputedTypesHaveASize) {
  for (int dtype = 0; dtype <= DS_DTYPE_OTHER; dtype++) {
    const size_t expected = dtype == DS_FLOAT32 ? 4 : dtype == DS_FLOAT16 || dtype == DS_BFLOAT16 ? 2 : 0;
    EXPECT_EQ(ds_dtype_bytes(static_cast<ds_dtype>(dtype)), expected) << dtype;
  }
}

TEST(Dtype, HasPyTorchsName) {
  const char *const names[] = {"float32",   "float16",    "bfloat16",        "float64", "uint8",
                               "int8",      "int16",      "int32",           "int64",   "bool",
                               "complex64", "complex128", "an unknown dtype"};
  for (int dtype = 0; dtype <= DS_DTYPE_OTHER; dtype++)
    EXPECT_STREQ(ds_dtype_name(static_cast<ds_dtype>(dtype)), names[dtype]);
}

} // namespace
