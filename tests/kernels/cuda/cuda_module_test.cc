// The module as a whole: its table, streams, graphs, devices.
#include "cuda_cases.h"
#include "linear_case.h"
#include <atomic>

namespace ds_tests {
namespace {

TEST(CudaModule, OpensAndDescribesItself) {
  const ds_cuda_module *module = nullptr, *again = nullptr;
  ASSERT_EQ(ds_cuda_module_open(DS_TEST_LIBRARY_FOLDER, &module), DS_OK) << ds_error_message();
  ASSERT_EQ(ds_cuda_module_open(DS_TEST_LIBRARY_FOLDER, &again), DS_OK);
  EXPECT_EQ(again, module);
  EXPECT_EQ(module->version, DS_CUDA_MODULE_VERSION);
  EXPECT_EQ(module->struct_bytes, sizeof *module);
  EXPECT_NE(std::string(module->architectures), "");
  EXPECT_GT(module->linear_workspace_bytes, 0u);
#define DS_EXPECT_LAUNCHER(name) EXPECT_NE(module->name, nullptr);
  DS_KERNELS(DS_EXPECT_LAUNCHER)
#undef DS_EXPECT_LAUNCHER
  EXPECT_NE(module->linear, nullptr);
}

TEST(CudaModule, RefusesDtypesThatKernelsDoNotComputeWith) {
  const ds_cuda_module *module = nullptr;
  ASSERT_EQ(ds_cuda_module_open(DS_TEST_LIBRARY_FOLDER, &module), DS_OK) << ds_error_message();
  ds_layer_norm_params params = {};
  params.dtype = DS_FLOAT64;
  params.rows = params.cols = 1;
  EXPECT_EQ(module->layer_norm(&params, nullptr), DS_E_DTYPE);
  EXPECT_STREQ(module->error_message(), "layer_norm: dtype float64 is not supported");
  ds_linear_params product = {};
  product.dtype = DS_INT8;
  product.rows = product.out_features = 1;
  EXPECT_EQ(module->linear(&product, nullptr), DS_E_DTYPE);
  EXPECT_STREQ(module->error_message(), "linear: dtype int8 is not supported");
}

class CudaCalls : public cuda_test {
protected:
  void SetUp() override {
    cuda_test::SetUp();
    if (module != nullptr) workspace = std::make_unique<device_buffer>(module->linear_workspace_bytes);
  }

  // One call of each operator, with its operands.
  struct calls {
    explicit calls(ds_dtype dtype)
        : norm(dtype, {.rows = 40, .cols = 320, .bias = true, .residual = true, .sum = true}),
          turned_norm(dtype, {.rows = 40, .cols = 1280, .input_layout = layout::column_major}),
          gate(dtype, {.rows = 40, .cols = 320}), bias(dtype, {.rows = 40, .cols = 320, .other = true}),
          product(dtype, {40, 312, 328, true, true}),
          // Its bias is copied to the front of the workspace first.
          odd_product(dtype, {.rows = 7,
                              .in_features = 39,
                              .out_features = 21,
                              .bias = true,
                              .residual = true,
                              .bias_layout = layout::second_element}) {}
    cuda_layer_norm_case norm, turned_norm;
    cuda_gated_activation_case gate;
    cuda_bias_add_case bias;
    linear_case product, odd_product;

    template <typename F>
    void each(F f) {
      f(norm);
      f(turned_norm);
      f(gate);
      f(bias);
      f(product);
      f(odd_product);
    }
  };

  void enqueue(const calls &all) {
    ASSERT_EQ(module->layer_norm(&all.norm.params, stream), DS_OK) << module->error_message();
    ASSERT_EQ(module->layer_norm(&all.turned_norm.params, stream), DS_OK) << module->error_message();
    ASSERT_EQ(module->gated_activation(&all.gate.params, stream), DS_OK) << module->error_message();
    ASSERT_EQ(module->bias_add(&all.bias.params, stream), DS_OK) << module->error_message();
    ASSERT_EQ(multiply(module, all.product.params, *workspace, stream), DS_OK) << module->error_message();
    ASSERT_EQ(multiply(module, all.odd_product.params, *workspace, stream), DS_OK) << module->error_message();
  }

  void expect_results(calls *all) {
    all->each([](auto &test) {
      test.copies.fetch();
      test.expect_result();
    });
  }

  std::unique_ptr<device_buffer> workspace;
};

// In a process of its own, as ctest runs it, these are the first calls: kernels are loaded, the handle is
// made and algorithms are chosen while the stream is captured.
TEST_F(CudaCalls, AreCapturedInAGraphFromTheFirst) {
  calls all(DS_FLOAT16);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  enqueue(all);
  check_cuda(cudaStreamEndCapture(stream, &graph));
  ASSERT_FALSE(HasFatalFailure());
  all.each([](auto &test) {
    test.copies.fetch();
    test.output.expect_untouched();
  });
  check_cuda(cudaGraphInstantiate(&executable, graph, 0));
  check_cuda(cudaGraphLaunch(executable, stream));
  wait();
  expect_results(&all);

  // Once more, with other inputs at the same addresses.
  all.each([](auto &test) {
    for (int64_t row = 0; row < test.input.rows(); row++)
      for (int64_t col = 0; col < test.input.cols(); col++)
        test.input.write(row, col, 0.25 * static_cast<double>((row * 7 + col * 3) % 11 - 5));
    test.copies.send();
  });
  check_cuda(cudaGraphLaunch(executable, stream));
  wait();
  expect_results(&all);
  check_cuda(cudaGraphExecDestroy(executable));
  check_cuda(cudaGraphDestroy(graph));
}

// Holds a stream up for as long as it lives.
class stream_stop {
public:
  explicit stream_stop(cudaStream_t stream) {
    released = false;
    check_cuda(cudaLaunchHostFunc(stream, wait_for_release, nullptr));
  }
  ~stream_stop() { released = true; }

private:
  static void wait_for_release(void *) {
    while (!released) {
    }
  }
  static inline std::atomic<bool> released; // outlives every host function that looks at it
};

// The stream is held up, so nothing may happen yet; work that went to another stream would.
TEST_F(CudaCalls, StayInTheirStream) {
  calls all(DS_BFLOAT16);
  enqueue(all); // so that the calls below find everything loaded
  wait();
  all.each([](auto &test) { test.copies.send(); });
  cudaStream_t other = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  {
    const stream_stop stop(stream);
    enqueue(all);
    all.each([&](auto &test) {
      unsigned char first_byte = 0;
      const void *const output = test.copies.at(test.output.data());
      check_cuda(cudaMemcpyAsync(&first_byte, output, 1, cudaMemcpyDeviceToHost, other));
      check_cuda(cudaStreamSynchronize(other));
      EXPECT_EQ(first_byte, 0xa5);
    });
  }
  wait();
  expect_results(&all);
  check_cuda(cudaStreamDestroy(other));
}

TEST_F(CudaCalls, WorkOnTheDefaultStream) {
  calls all(DS_FLOAT32);
  const cudaStream_t own = stream;
  stream = nullptr;
  enqueue(all);
  check_cuda(cudaDeviceSynchronize());
  stream = own;
  expect_results(&all);
}

TEST_F(CudaCalls, WorkOnEveryDevice) {
  int devices = 0;
  check_cuda(cudaGetDeviceCount(&devices));
  if (devices < 2) GTEST_SKIP() << "there is one device only";
  const cudaStream_t own = stream;
  std::unique_ptr<device_buffer> first_workspace = std::move(workspace);
  for (int device = devices - 1; device >= 0; device--) {
    check_cuda(cudaSetDevice(device));
    ASSERT_EQ(module->check_device(), DS_OK) << module->error_message();
    workspace = std::make_unique<device_buffer>(module->linear_workspace_bytes);
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    calls all(DS_FLOAT16);
    enqueue(all);
    wait();
    expect_results(&all);
    check_cuda(cudaStreamDestroy(stream));
  }
  stream = own;
}

// A launch that the runtime refuses: the message says which, and the next call is not blamed for it.
TEST_F(CudaCalls, ReportAFailedLaunchOnce) {
  calls all(DS_FLOAT16);
  const cudaStream_t own = stream;
  int devices = 0;
  check_cuda(cudaGetDeviceCount(&devices));
  if (devices < 2) GTEST_SKIP() << "needs a stream of another device, and there is one device only";
  check_cuda(cudaSetDevice(1));
  EXPECT_EQ(module->layer_norm(&all.norm.params, own), DS_E_CUDA);
  EXPECT_NE(std::string(module->error_message()).find("the launch of layer_norm failed: "), std::string::npos)
      << module->error_message();
  check_cuda(cudaSetDevice(0));
  enqueue(all);
  wait();
  expect_results(&all);
}

} // namespace
} // namespace ds_tests
