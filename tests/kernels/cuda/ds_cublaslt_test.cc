// What can be seen of cuBLASLt without a GPU.
#include "cuda/ds_cublaslt.h"
#include "cuda/linear_plan_cuda.h"
#include <gtest/gtest.h>
#include <string>

namespace {

TEST(CublasLt, OpensOnceOrSaysWhatToInstall) {
  const ds_cublaslt *library = nullptr, *again = nullptr;
  if (ds_cublaslt_open(&library) == DS_OK) {
    ASSERT_EQ(ds_cublaslt_open(&again), DS_OK);
    EXPECT_EQ(again, library);
#define DS_EXPECT_FUNCTION(name) EXPECT_NE(library->name, nullptr);
    DS_CUBLASLT_FUNCTIONS(DS_EXPECT_FUNCTION)
#undef DS_EXPECT_FUNCTION
    return;
  }
  EXPECT_EQ(ds_cublaslt_open(&library), DS_E_UNSUPPORTED);
  EXPECT_EQ(library, nullptr);
  const std::string message = ds_error_message();
  for (const char *part : {"libcublasLt.so.13", "libcublasLt.so.12", "install"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(CublasLt, TakesTheDescriptionsOfProducts) {
  const ds_cublaslt *library = nullptr;
  if (ds_cublaslt_open(&library) != DS_OK) GTEST_SKIP() << ds_error_message();
  ds_linear_key key = {};
  key.rows = 3;
  key.in_features = 5;
  key.out_features = 7;
  key.input_row_stride = 5;
  key.weight_row_stride = 6;
  key.residual_row_stride = 8;
  key.output_row_stride = 9;
  struct precision {
    ds_dtype dtype;
    bool allow_tf32;
  };
  for (const precision &of :
       {precision{DS_FLOAT32, false}, {DS_FLOAT32, true}, {DS_FLOAT16, false}, {DS_BFLOAT16, false}})
    for (const bool bias : {false, true})
      for (const bool residual : {false, true}) {
        key.dtype = of.dtype;
        key.allow_tf32 = of.allow_tf32;
        key.has_bias = bias;
        key.has_residual = residual;
        ds_linear_descriptors descriptors;
        ASSERT_EQ(ds_linear_describe(library, &key, bias ? &key : nullptr, &descriptors), DS_OK)
            << ds_error_message();
        EXPECT_NE(descriptors.operation, nullptr);
        ds_linear_release(library, &descriptors);
        EXPECT_EQ(descriptors.operation, nullptr);
        ds_linear_release(library, &descriptors);
      }
}

TEST(CublasLt, RefusesDevicesBeyondItsTable) {
  const ds_cublaslt *library = nullptr;
  if (ds_cublaslt_open(&library) != DS_OK) GTEST_SKIP() << ds_error_message();
  cublasLtHandle_t handle = nullptr;
  for (const int device : {-1, 128, 1000}) {
    EXPECT_EQ(ds_cublaslt_handle(library, device, &handle), DS_E_DEVICE);
    EXPECT_EQ(std::string(ds_error_message()),
              "the CUDA device is " + std::to_string(device) + ", must be below 128");
  }
}

TEST(CublasLt, ReportsTheLibrarysWords) {
  const ds_cublaslt *library = nullptr;
  if (ds_cublaslt_open(&library) != DS_OK) GTEST_SKIP() << ds_error_message();
  EXPECT_EQ(ds_cublaslt_error(library, "a product", CUBLAS_STATUS_NOT_SUPPORTED), DS_E_CUDA);
  EXPECT_EQ(std::string(ds_error_message()).find("a product failed: "), 0u) << ds_error_message();
}

} // namespace
