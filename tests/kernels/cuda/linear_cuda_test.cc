// Matrix products on a GPU against float64.
#include "linear_case.h"
#include <thread>

namespace ds_tests {
namespace {

class LinearCuda : public cuda_dtype_test {
protected:
  void run(const linear_case &test, cudaStream_t on, const device_buffer &workspace) {
    ASSERT_EQ(multiply(module, test.params, workspace, on), DS_OK) << module->error_message();
    check_cuda(cudaStreamSynchronize(on));
    test.copies.fetch();
    test.expect_result();
  }

  void run_and_check(const linear_options &options) {
    if (workspace_ == nullptr) workspace_ = std::make_unique<device_buffer>(module->linear_workspace_bytes);
    const linear_case test(dtype, options);
    run(test, stream, *workspace_);
  }

private:
  std::unique_ptr<device_buffer> workspace_;
};

INSTANTIATE_TEST_SUITE_P(Gpu, LinearCuda, each_dtype(), name_of_dtype);

struct sizes {
  int64_t rows, in_features, out_features;
};

const std::vector<layout> row_layouts = {layout::contiguous, layout::second_element, layout::padded_rows};

TEST_P(LinearCuda, MatchesReferenceForAnySizes) {
  for (const sizes &s : {sizes{1, 1, 1}, sizes{1, 8, 1}, sizes{5, 1, 3}, sizes{3, 5, 7}, sizes{8, 8, 8},
                         sizes{17, 31, 13}, sizes{1, 64, 128}, sizes{128, 64, 1}, sizes{64, 72, 40},
                         sizes{33, 127, 129}, sizes{77, 768, 320}, sizes{2, 1280, 64}, sizes{255, 257, 63}})
    for (const bool bias : {false, true})
      for (const bool residual : {false, true})
        run_and_check({s.rows, s.in_features, s.out_features, bias, residual});
}

TEST_P(LinearCuda, MatchesReferenceForModels) {
  run_and_check({.rows = 64, .in_features = 1280, .out_features = 1280, .bias = true, .residual = true});
  run_and_check({.rows = 130, .in_features = 320, .out_features = 960});
  run_and_check({.rows = 40, .in_features = 5120, .out_features = 640, .bias = true, .residual = true});
}

TEST_P(LinearCuda, MatchesReferenceInAnyLayout) {
  for (const layout input : row_layouts)
    for (const layout weight : row_layouts)
      for (const layout residual : row_layouts)
        for (const layout output : row_layouts)
          for (const sizes &s : {sizes{6, 16, 24}, sizes{5, 11, 9}})
            run_and_check({s.rows, s.in_features, s.out_features, true, true, input, weight,
                           layout::contiguous, residual, output});
}

TEST_P(LinearCuda, ReadsABiasAtAnyAddress) {
  for (const sizes &s : {sizes{6, 16, 24}, sizes{70, 320, 640}, sizes{3, 5, 1}})
    for (const bool residual : {false, true})
      run_and_check({.rows = s.rows,
                     .in_features = s.in_features,
                     .out_features = s.out_features,
                     .bias = true,
                     .residual = residual,
                     .bias_layout = layout::second_element});
  // Longer than the copy that such a bias gets.
  run_and_check({.rows = 1,
                 .in_features = 1,
                 .out_features = 600001,
                 .bias = true,
                 .bias_layout = layout::second_element});
}

// Rows in the same memory, as an expanded tensor has them.
TEST_P(LinearCuda, ReadsRowsThatOverlap) {
  const layout same = layout::repeated_row;
  for (const sizes &s : {sizes{6, 16, 24}, sizes{70, 33, 65}, sizes{1, 8, 1}}) {
    run_and_check({.rows = s.rows,
                   .in_features = s.in_features,
                   .out_features = s.out_features,
                   .bias = true,
                   .input_layout = same});
    run_and_check({.rows = s.rows,
                   .in_features = s.in_features,
                   .out_features = s.out_features,
                   .weight_layout = same});
    run_and_check({.rows = s.rows,
                   .in_features = s.in_features,
                   .out_features = s.out_features,
                   .residual = true,
                   .residual_layout = same});
  }
}

TEST_P(LinearCuda, SumsNothingWithoutInputFeatures) {
  for (const bool bias : {false, true})
    for (const bool residual : {false, true})
      for (const layout output : row_layouts)
        run_and_check({.rows = 5,
                       .in_features = 0,
                       .out_features = 37,
                       .bias = bias,
                       .residual = residual,
                       .output_layout = output});
}

TEST_P(LinearCuda, NoElementsTouchNothing) {
  ds_linear_params params = {};
  params.dtype = dtype;
  params.in_features = 8;
  params.out_features = 8;
  EXPECT_EQ(module->linear(&params, stream), DS_OK);
  params.rows = 8;
  params.out_features = 0;
  EXPECT_EQ(module->linear(&params, stream), DS_OK);
}

TEST_P(LinearCuda, RoundsToTf32OnlyWhereAllowed) {
  for (const sizes &s : {sizes{1, 1, 1}, sizes{3, 5, 7}, sizes{64, 72, 40}, sizes{130, 320, 960}})
    for (const bool extras : {false, true})
      run_and_check({.rows = s.rows,
                     .in_features = s.in_features,
                     .out_features = s.out_features,
                     .bias = extras,
                     .residual = extras,
                     .allow_tf32 = true});
  if (dtype != DS_FLOAT32) return;
  // At sizes for which there are kernels of both kinds, the choice shows.
  const device_buffer workspace(module->linear_workspace_bytes);
  for (const bool allow_tf32 : {false, true, false}) {
    const linear_case test(dtype,
                           {.rows = 256, .in_features = 640, .out_features = 256, .allow_tf32 = allow_tf32});
    run(test, stream, workspace);
    if (allow_tf32)
      EXPECT_GT(test.largest_error(), 16);
    else
      EXPECT_LT(test.largest_error(), 16);
  }
}

// With the plan that it gets under capture, in the call that measures, and with the plan that stays.
TEST_P(LinearCuda, IsRightWithEachPlan) {
  const device_buffer workspace(module->linear_workspace_bytes);
  for (const linear_options &options :
       {linear_options{96, 320, 648}, {40, 648, 320, true, true}, {33, 127, 65, true, false}}) {
    const linear_case captured(dtype, options);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    ASSERT_EQ(multiply(module, captured.params, workspace, stream), DS_OK) << module->error_message();
    check_cuda(cudaStreamEndCapture(stream, &graph));
    check_cuda(cudaGraphInstantiate(&executable, graph, 0));
    check_cuda(cudaGraphLaunch(executable, stream));
    wait();
    captured.copies.fetch();
    captured.expect_result();
    check_cuda(cudaGraphExecDestroy(executable));
    check_cuda(cudaGraphDestroy(graph));
    for (int round = 0; round < 2; round++) run(linear_case(dtype, options), stream, workspace);
  }
}

TEST_P(LinearCuda, GivesTheSameBitsAgain) {
  const device_buffer workspace(module->linear_workspace_bytes);
  const linear_case test(dtype, {96, 1280, 328, true, true});
  std::vector<double> first;
  for (int round = 0; round < 3; round++) {
    run(test, stream, workspace);
    for (int64_t row = 0, i = 0; row < test.output.rows(); row++)
      for (int64_t col = 0; col < test.output.cols(); col++, i++)
        if (round == 0)
          first.push_back(test.output.at(row, col));
        else
          ASSERT_EQ(test.output.at(row, col), first[static_cast<size_t>(i)]);
  }
}

// The same kinds of product and different ones, chosen and run at the same time.
TEST_P(LinearCuda, ManyThreadsAtOnce) {
  constexpr int threads = 8, rounds = 12;
  int device = 0;
  check_cuda(cudaGetDevice(&device));
  std::vector<std::thread> all;
  for (int thread = 0; thread < threads; thread++)
    all.emplace_back([&, thread] {
      check_cuda(cudaSetDevice(device));
      cudaStream_t own = nullptr;
      check_cuda(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking));
      const device_buffer workspace(module->linear_workspace_bytes);
      for (int round = 0; round < rounds; round++) {
        const int64_t rows = 1 + (round + thread) % 5 * 16;
        const linear_case test(dtype, {rows, 48 + round % 3, 40, round % 2 == 0, thread % 2 == 0});
        run(test, own, workspace);
      }
      check_cuda(cudaStreamDestroy(own));
    });
  for (std::thread &thread : all) thread.join();
}

// More kinds of product than are remembered.
TEST_P(LinearCuda, ForgetsAndChoosesAgain) {
  if (dtype != DS_FLOAT16) return;
  for (int round = 0; round < 2; round++)
    for (int64_t rows = 1; rows <= 1400; rows += round == 0 ? 1 : 50)
      run_and_check({.rows = rows, .in_features = 16, .out_features = 8, .bias = true});
}

} // namespace
} // namespace ds_tests
