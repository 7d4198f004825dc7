#include "ds_cuda_loader.h"
#include <gtest/gtest.h>
#include <string>

namespace {

const ds_cuda_module *const unset = reinterpret_cast<const ds_cuda_module *>(&unset);

void expect_refused(const std::string &folder, const std::string &part_of_message) {
  const ds_cuda_module *module = unset;
  EXPECT_EQ(ds_cuda_module_open(folder.c_str(), &module), DS_E_UNSUPPORTED);
  EXPECT_EQ(module, unset);
  EXPECT_NE(std::string(ds_error_message()).find(part_of_message), std::string::npos) << ds_error_message();
}

TEST(CudaLoader, SaysWhatToInstallWhereTheModuleIsMissing) {
  expect_refused("/nowhere/at/all", "install ds_diffusers from a build made with nvcc");
}

TEST(CudaLoader, LooksBesideTheProgramWithoutAFolder) {
  const ds_cuda_module *module = unset;
  EXPECT_EQ(ds_cuda_module_open(nullptr, &module), DS_E_UNSUPPORTED);
  EXPECT_NE(std::string(ds_error_message()).find(DS_CUDA_MODULE_FILE), std::string::npos)
      << ds_error_message();
}

TEST(CudaLoader, RefusesAnotherVersion) {
  expect_refused(DS_TEST_MODULES "/wrong_version",
                 "has interface version " + std::to_string(DS_CUDA_MODULE_VERSION + 1) + " (24 bytes)");
}

TEST(CudaLoader, RefusesALibraryWithoutTheModulesFunction) {
  expect_refused(DS_TEST_MODULES "/no_symbol", "does not export " DS_CUDA_MODULE_SYMBOL);
}

TEST(CudaLoader, RefusesAFolderWhosePathIsTooLong) {
  expect_refused(std::string(100000, 'a'), "path of " DS_CUDA_MODULE_FILE " is too long");
}

TEST(CudaLoader, CanBeAskedAgainAfterAFailure) {
  for (int i = 0; i < 100; i++) expect_refused(DS_TEST_MODULES "/wrong_version", "interface version");
}

} // namespace
