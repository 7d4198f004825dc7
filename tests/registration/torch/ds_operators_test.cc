// Every operator through the dispatcher, against ATen's functions.
#include "torch_plugin.h"
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <atomic>
#include <gtest/gtest.h>
#include <thread>

using torch_plugin::arguments;
using torch_plugin::call;
using torch_plugin::error_of;

namespace {

class Operators : public testing::TestWithParam<c10::DeviceType> {
protected:
  void SetUp() override {
    if (GetParam() == c10::kCUDA && !at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
    at::manual_seed(0);
  }

  at::Tensor normal(at::IntArrayRef sizes) { return at::randn(sizes).to(GetParam()); }

  static void expect_close(const at::Tensor &result, const at::Tensor &expected) {
    ASSERT_EQ(result.sizes(), expected.sizes());
    EXPECT_TRUE(at::allclose(result.cpu(), expected.cpu(), 1e-4, 1e-4))
        << "largest difference " << (result - expected).abs().max().item<double>();
  }
};

TEST_P(Operators, LayerNorm) {
  const at::Tensor input = normal({2, 5, 40}), gamma = normal({40}), beta = normal({40});
  const at::Tensor expected = at::layer_norm(input, {40}, gamma, beta, 1e-3);
  expect_close(call("layer_norm", {{"input", input}, {"gamma", gamma}, {"beta", beta}, {"epsilon", 1e-3}})[0],
               expected);
  expect_close(call("layer_norm", {{"input", input}})[0], at::layer_norm(input, {40}));
  // The same by its C++ type, as a host that knows the schema calls it.
  const auto typed = c10::Dispatcher::singleton()
                         .findSchemaOrThrow("ds_diffusers::layer_norm", "")
                         .typed<at::Tensor(const at::Tensor &, const std::optional<at::Tensor> &,
                                           const std::optional<at::Tensor> &, double)>();
  expect_close(typed.call(input, gamma, beta, 1e-3), expected);
}

TEST_P(Operators, LayerNormResidualStorePreLnRes) {
  const at::Tensor input = normal({2, 5, 40}), residual = normal({2, 5, 40});
  const at::Tensor bias = normal({40}), gamma = normal({40}), beta = normal({40});
  const auto results =
      call("layer_norm_residual_store_pre_ln_res",
           {{"input", input}, {"bias", bias}, {"residual", residual}, {"gamma", gamma}, {"beta", beta}});
  ASSERT_EQ(results.size(), 2u);
  expect_close(results[0], at::layer_norm(input + bias + residual, {40}, gamma, beta));
  expect_close(results[1], input + bias + residual);
}

TEST_P(Operators, GatedActivation) {
  const at::Tensor activation = normal({2, 5, 80}), bias = normal({80});
  const auto halves = (activation + bias).chunk(2, -1);
  expect_close(call("gated_activation",
                    {{"activation", activation}, {"bias", bias}, {"activation_type", int64_t{3}}})[0],
               halves[0] * at::gelu(halves[1]));
  expect_close(call("gated_activation",
                    {{"activation", activation}, {"bias", bias}, {"activation_type", int64_t{4}}})[0],
               halves[0] * at::silu(halves[1]));
}

TEST_P(Operators, NhwcBiasAdd) {
  const at::Tensor activation = normal({2, 5, 40}), bias = normal({40}), other = normal({2, 5, 40});
  expect_close(call("nhwc_bias_add", {{"activation", activation}, {"bias", bias}})[0], activation + bias);
  expect_close(call("nhwc_bias_add",
                    {{"activation", activation}, {"bias", bias}, {"other", other}, {"other_bias", bias}})[0],
               activation + bias + other + bias);
  const at::Tensor pixels = normal({2, 8, 3, 5}).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor channel_bias = normal({8});
  const at::Tensor result = call("nhwc_bias_add", {{"activation", pixels}, {"bias", channel_bias}})[0];
  EXPECT_TRUE(result.is_contiguous(at::MemoryFormat::ChannelsLast));
  expect_close(result, pixels + channel_bias.view({1, 8, 1, 1}));
}

at::Tensor attention(const at::Tensor &queries, const at::Tensor &source, const arguments &weights,
                     const std::string &name, int64_t heads) {
  const auto project = [&](const at::Tensor &input, const std::string &part) {
    const at::Tensor projected = at::linear(input, weights.at(name + "_" + part + "_weight").toTensor());
    return projected.view({input.size(0), input.size(1), heads, -1}).transpose(1, 2);
  };
  const at::Tensor result =
      at::scaled_dot_product_attention(project(queries, "q"), project(source, "k"), project(source, "v"));
  return at::linear(result.transpose(1, 2).flatten(2), weights.at(name + "_out_weight").toTensor());
}

TEST_P(Operators, BlockForward) {
  const at::Tensor x = normal({2, 7, 24}), context = normal({2, 5, 20});
  arguments given = {{"hidden_states", x}, {"attn2_context", context}, {"heads", int64_t{3}}};
  for (const std::string name : {"attn1", "attn2"}) {
    const int64_t features = name == "attn1" ? 24 : 20;
    given[name + "_q_weight"] = normal({24, 24}) / 5;
    given[name + "_k_weight"] = normal({24, features}) / 5;
    given[name + "_v_weight"] = normal({24, features}) / 5;
    given[name + "_out_weight"] = normal({24, 24}) / 5;
  }
  given["ff_in_weight"] = normal({64, 24}) / 5;
  given["ff_out_weight"] = normal({24, 32}) / 5;

  const at::Tensor n1 = at::layer_norm(x, {24}), s1 = x + attention(n1, n1, given, "attn1", 3);
  const at::Tensor s2 = s1 + attention(at::layer_norm(s1, {24}), context, given, "attn2", 3);
  const auto halves = at::linear(at::layer_norm(s2, {24}), given["ff_in_weight"].toTensor()).chunk(2, -1);
  const at::Tensor inner = halves[0] * at::gelu(halves[1]);
  const at::Tensor expected = s2 + at::linear(inner, given["ff_out_weight"].toTensor());
  expect_close(call("block_forward", given)[0], expected);

  given["attn2_key_value"] = at::cat({at::linear(context, given["attn2_k_weight"].toTensor()),
                                      at::linear(context, given["attn2_v_weight"].toTensor())},
                                     -1);
  for (const char *replaced : {"attn2_context", "attn2_k_weight", "attn2_v_weight"}) given.erase(replaced);
  expect_close(call("block_forward", given)[0], expected);
}

TEST_P(Operators, NameTheWrongArgument) {
  const at::Tensor input = normal({3, 8});
  EXPECT_EQ(error_of("layer_norm", {{"input", input}, {"gamma", normal({7})}}),
            "ds_diffusers::layer_norm: gamma has shape [7], must be [8], the size of input's last dimension");
  EXPECT_EQ(error_of("layer_norm", {{"input", input}, {"beta", normal({8}).to(at::kHalf)}}),
            "ds_diffusers::layer_norm: beta has dtype float16, must be float32, the dtype of input");
  EXPECT_EQ(error_of("layer_norm", {{"input", at::Tensor()}, {"gamma", normal({8})}}),
            "ds_diffusers::layer_norm: input is None, must be a tensor");
  EXPECT_EQ(error_of("layer_norm", {{"input", input}, {"gamma", at::Tensor()}}), "");
}

TEST_P(Operators, RunInSeveralThreads) {
  const at::Tensor input = normal({64, 128}), expected = at::layer_norm(input, {128});
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; i++)
    threads.emplace_back([&] {
      for (int round = 0; round < 50; round++) {
        if (!at::allclose(call("layer_norm", {{"input", input}})[0], expected, 1e-4, 1e-4)) wrong++;
        if (error_of("layer_norm", {{"input", input}, {"epsilon", -1.0}}).empty()) wrong++;
      }
    });
  for (std::thread &thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

std::string name_of(const testing::TestParamInfo<c10::DeviceType> &device) {
  return device.param == c10::kCPU ? "cpu" : "cuda";
}

INSTANTIATE_TEST_SUITE_P(On, Operators, testing::Values(c10::kCPU, c10::kCUDA), name_of);

TEST(Plugin, CanBeOpenedAgain) {
  torch_plugin::load();
  torch_plugin::load();
  EXPECT_TRUE(call("layer_norm", {{"input", at::ones({2, 3})}})[0].equal(at::zeros({2, 3})));
}

TEST(Plugin, HasMetaKernels) {
  const at::Tensor input = at::empty({2, 3, 8}, at::TensorOptions(c10::kMeta));
  EXPECT_EQ(call("layer_norm", {{"input", input}})[0].sizes(), input.sizes());
  const auto halved = call("gated_activation",
                           {{"activation", input}, {"bias", c10::IValue()}, {"activation_type", int64_t{3}}});
  EXPECT_EQ(halved[0].sizes(), at::IntArrayRef({2, 3, 4}));
  EXPECT_TRUE(halved[0].is_meta());
}

} // namespace
