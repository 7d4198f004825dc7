// Operators on CUDA tensors, with a module that computes on the CPU in place of a device: what reaches the
// module, and what comes back from it.
#include "block_reference.h"
#include "cpu/ds_kernels_cpu.h"
#include "ds_gated_activation.h"
#include "ds_layer_norm.h"
#include "ds_nhwc_bias_add.h"
#include "plain_services.h"
#include "wrong_arguments.h"

namespace ds_tests {
namespace {

int launches, failing_launch;
void *last_stream;

const char *module_message() {
  return "the device is on fire";
}

ds_status check_device() {
  return DS_OK;
}

template <typename Params>
ds_status launch(ds_status (*kernel)(const Params *, ds_parallel_for_fn), const Params *params,
                 void *stream) {
  last_stream = stream;
  return ++launches == failing_launch ? DS_E_CUDA : kernel(params, nullptr);
}

ds_status launch_layer_norm(const ds_layer_norm_params *params, void *stream) {
  return launch(ds_layer_norm_cpu, params, stream);
}
ds_status launch_gated_activation(const ds_gated_activation_params *params, void *stream) {
  return launch(ds_gated_activation_cpu, params, stream);
}
ds_status launch_bias_add(const ds_bias_add_params *params, void *stream) {
  return launch(ds_bias_add_cpu, params, stream);
}
ds_status launch_dequantize(const ds_dequantize_params *params, void *stream) {
  return launch(ds_dequantize_cpu, params, stream);
}

class Run : public testing::Test {
protected:
  Run() {
    module_.error_message = module_message;
    module_.check_device = check_device;
    module_.layer_norm = launch_layer_norm;
    module_.gated_activation = launch_gated_activation;
    module_.bias_add = launch_bias_add;
    module_.dequantize = launch_dequantize;
    context = {nullptr, &module_, this};
    launches = failing_launch = 0;
    last_stream = nullptr;
    for (tensor *t : {&x, &vector, &output}) t->device_type = DS_CUDA;
    for (tensor *t : {&x, &vector, &output}) t->device_index = 1;
    half.device_type = DS_CUDA;
    half.device_index = 1;
  }

  ds_status layer_norm() { return ds_layer_norm(&context, x.get(), nullptr, nullptr, 1e-5, output.get()); }
  ds_status gated_activation() { return ds_gated_activation(&context, x.get(), nullptr, 3, half.get()); }
  ds_status bias_add() {
    return ds_nhwc_bias_add(&context, x.get(), vector.get(), nullptr, nullptr, output.get());
  }

  ds_context context;
  tensor x{DS_FLOAT32, {2, 3, 8}, 1}, vector{DS_FLOAT32, {8}, 2}, output{DS_FLOAT32, {2, 3, 8}},
      half{DS_FLOAT32, {2, 3, 4}};

private:
  ds_cuda_module module_ = {};
};

TEST_F(Run, LaunchesOnTheContextsStream) {
  EXPECT_EQ(layer_norm(), DS_OK) << ds_error_message();
  EXPECT_EQ(gated_activation(), DS_OK) << ds_error_message();
  EXPECT_EQ(bias_add(), DS_OK) << ds_error_message();
  EXPECT_EQ(launches, 3);
  EXPECT_EQ(last_stream, this);
  for_each_index(output.sizes, [&](const index_list &i) {
    EXPECT_EQ(output.at(i), static_cast<float>(x.at(i)) + static_cast<float>(vector.at({i[2]})));
  });
}

TEST_F(Run, NeedsAModuleForCudaTensors) {
  const std::string message = "the tensors are on a CUDA device, but no CUDA module was given";
  context.cuda = nullptr;
  expect_refusal("layer_norm", layer_norm(), DS_E_UNSUPPORTED, message);
  expect_refusal("gated_activation", gated_activation(), DS_E_UNSUPPORTED, message);
  expect_refusal("nhwc_bias_add", bias_add(), DS_E_UNSUPPORTED, message);
  expect_refusal("layer_norm", ds_layer_norm(nullptr, x.get(), nullptr, nullptr, 1e-5, output.get()),
                 DS_E_UNSUPPORTED, message);
  output.expect_untouched();
}

TEST_F(Run, NeedsNoModuleForCpuTensors) {
  context.cuda = nullptr;
  x.device_type = output.device_type = DS_CPU;
  EXPECT_EQ(layer_norm(), DS_OK) << ds_error_message();
}

TEST_F(Run, PassesOnTheModulesMessage) {
  const auto expect_failure = [](ds_status status) {
    EXPECT_EQ(status, DS_E_CUDA);
    EXPECT_STREQ(ds_error_message(), "the device is on fire");
  };
  failing_launch = 1;
  expect_failure(layer_norm());
  launches = 0;
  expect_failure(gated_activation());
  launches = 0;
  expect_failure(bias_add());
}

TEST_F(Run, DevicesMustAgree) {
  output.device_index = 0;
  expect_refusal("layer_norm", layer_norm(), DS_E_DEVICE,
                 "output is on cuda:0, must be on cuda:1, the device of input");
  output.device_type = DS_CPU;
  expect_refusal("nhwc_bias_add", bias_add(), DS_E_DEVICE,
                 "output is on cpu, must be on cuda:1, the device of activation");
}

TEST_F(Run, EmptyTensorsLaunchNothing) {
  x.sizes = output.sizes = {2, 0, 8};
  half.sizes = {2, 0, 4};
  EXPECT_EQ(layer_norm(), DS_OK);
  EXPECT_EQ(gated_activation(), DS_OK);
  EXPECT_EQ(bias_add(), DS_OK);
  EXPECT_EQ(launches, 0);
}

// The block, all of whose kernels come from the module.
class RunBlock : public Run, public testing::WithParamInterface<bool> {
protected:
  ds_status call(block_case &block) {
    plain_services services(GetParam());
    for (const std::string &name : block.names()) block.at(name).device_type = DS_CUDA;
    block.output.device_type = DS_CUDA;
    return block.call(&context, &services.table);
  }
};

INSTANTIATE_TEST_SUITE_P(LinearAddsResidual, RunBlock, testing::Bool(), testing::PrintToStringParamName());

TEST_P(RunBlock, UsesTheModulesKernels) {
  block_case block({.attn2 = {.context_tokens = 3}});
  ASSERT_EQ(call(block), DS_OK) << ds_error_message();
  EXPECT_EQ(launches, GetParam() ? 4 : 5);
  EXPECT_EQ(last_stream, this);
  const grid expected = block_reference(block)(0);
  EXPECT_NEAR(block.output.at({0, 2, 5}), expected[2][5], 1e-5);
}

TEST_P(RunBlock, DequantizesWeightsAtOnce) {
  block_case block({.dtype = DS_FLOAT16,
                    .batch = 1,
                    .tokens = 2,
                    .channels = 66,
                    .ff_inner = 33001,
                    .ff_in_groups = 1,
                    .ff_out_groups = 1,
                    .attn2 = {.present = false}});
  ASSERT_EQ(call(block), DS_OK) << ds_error_message();
  EXPECT_EQ(launches, GetParam() ? 5 : 4); // a service that adds no residual takes the weights as they are
  const grid expected = block_reference(block)(0);
  EXPECT_NEAR(block.output.at({0, 1, 65}), expected[1][65], 0.02);
}

TEST_P(RunBlock, AFailingLaunchEndsTheCall) {
  for (failing_launch = 1; failing_launch <= (GetParam() ? 6 : 5); failing_launch++) {
    launches = 0;
    block_case block({.ff_in_groups = 2, .ff_out_groups = 1});
    EXPECT_EQ(call(block), DS_E_CUDA);
    EXPECT_STREQ(ds_error_message(), "the device is on fire");
    EXPECT_EQ(launches, failing_launch);
  }
}

TEST_P(RunBlock, NeedsAModule) {
  context.cuda = nullptr;
  block_case block({});
  expect_refusal("block_forward", call(block), DS_E_UNSUPPORTED,
                 "the tensors are on a CUDA device, but no CUDA module was given");
  block.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
