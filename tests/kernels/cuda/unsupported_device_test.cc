// What a GPU hears that a build has no code for: this program is compiled for an older one than is supported.
#include "cuda/ds_cuda_device.h"
#include <gtest/gtest.h>
#include <string>

namespace {

TEST(UnsupportedDevice, IsNamedWithWhatTheBuildHas) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device";
  int major = 0, minor = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  ASSERT_EQ(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), cudaSuccess);
  const std::string must_be = major < 8 ? "must be 8.0 or newer" : "has code for: 75 (";
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  for (int attempt = 0; attempt < 2; attempt++) {
    EXPECT_EQ(ds_cuda_check_device(), DS_E_UNSUPPORTED);
    const std::string message = ds_error_message();
    EXPECT_NE(message.find("compute capability " + capability), std::string::npos) << message;
    EXPECT_NE(message.find(must_be), std::string::npos) << message;
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(UnsupportedDevice, OtherErrorsKeepTheirOwnWords) {
  EXPECT_EQ(ds_cuda_error("the launch of layer_norm", cudaErrorInvalidValue), DS_E_CUDA);
  EXPECT_STREQ(ds_error_message(),
               "the launch of layer_norm failed: invalid argument (cudaErrorInvalidValue)");
  EXPECT_EQ(ds_cuda_error("loading the CUDA kernels", cudaErrorInsufficientDriver), DS_E_UNSUPPORTED);
  EXPECT_NE(std::string(ds_error_message()).find("driver is older"), std::string::npos) << ds_error_message();
}

} // namespace
