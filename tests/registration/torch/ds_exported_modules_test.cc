// TorchScript that Python wrote, in a program without Python: the plugin alone gives it its operators.
#include "torch_plugin.h"
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <torch/script.h>

namespace {

// Beside <name>.pt lies <name>_values.pt with the tensors "inputs" and "expected" that its forward was run
// with.
void check_module(const std::string &name, const c10::Device &device) {
  const std::string path = std::string(DS_EXPORTED_MODULES) + "/" + name + ".pt";
  if (std::filesystem::exists(path + ".missing")) {
    std::ifstream reason(path + ".missing");
    GTEST_SKIP() << std::string(std::istreambuf_iterator<char>(reason), {});
  }
  torch::NoGradGuard no_grad;
  torch::jit::Module module = torch::jit::load(path, device);
  const torch::jit::Module values =
      torch::jit::load(std::string(DS_EXPORTED_MODULES) + "/" + name + "_values.pt", device);
  std::vector<c10::IValue> inputs;
  for (const at::Tensor &input : values.attr("inputs").toTensorVector()) inputs.emplace_back(input);
  const std::vector<at::Tensor> expected = values.attr("expected").toTensorVector();
  // TorchScript profiles the first calls and optimises the later ones.
  for (int round = 0; round < 3; round++) {
    const c10::IValue output = module.forward(inputs);
    const std::vector<at::Tensor> results =
        output.isTensor() ? std::vector<at::Tensor>{output.toTensor()} : output.toTensorVector();
    ASSERT_EQ(results.size(), expected.size());
    for (size_t i = 0; i < results.size(); i++)
      EXPECT_TRUE(at::allclose(results[i], expected[i], 1e-3, 1e-3))
          << "result " << i << ": largest difference "
          << (results[i] - expected[i]).abs().max().item<double>();
  }
}

TEST(ExportedModule, OfAllOperators) {
  check_module("operators", c10::kCPU);
}

TEST(ExportedModule, OfAPatchedBlock) {
  check_module("block", c10::kCPU);
}

TEST(ExportedModule, OfAPatchedUNet) {
  check_module("unet", c10::kCPU);
}

TEST(ExportedModule, RunsOnCuda) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  check_module("operators", c10::Device(c10::kCUDA, 0));
}

TEST(ExportedModule, NeedsNoPython) {
  std::ifstream maps("/proc/self/maps");
  const std::string all(std::istreambuf_iterator<char>(maps), {});
  EXPECT_EQ(all.find("libpython"), std::string::npos);
  EXPECT_EQ(all.find("libtorch_python"), std::string::npos);
}

} // namespace
