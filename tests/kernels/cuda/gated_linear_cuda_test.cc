// The linear with its gated activation on a GPU against float64.
#include "gated_linear_case.h"

namespace ds_tests {
namespace {

constexpr ds_activation_type both[] = {DS_ACTIVATION_GATED_GELU, DS_ACTIVATION_GATED_SILU};
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

struct sizes {
  int64_t rows, in_features, cols;
};

class GatedLinearCuda : public special_linear_test<gated_linear_case> {
protected:
  // Outputs of value · act(gate) for gates that lie in the inputs' first column; the rest is as `value` and
  // `gate_bias` say.
  std::vector<double> activate(ds_activation_type type, const std::vector<double> &gates, double value,
                               double gate_bias = 0.0) {
    const auto rows = static_cast<int64_t>(gates.size());
    gated_linear_case test(dtype, {.rows = rows, .in_features = 8, .cols = 8, .activation_type = type});
    for (int64_t row = 0; row < rows; row++)
      for (int64_t col = 0; col < 8; col++)
        test.input.write(row, col, col == 0 ? gates[static_cast<size_t>(row)] : col == 1 ? 1.0 : 0.0);
    for (int64_t row = 0; row < 16; row++) {
      for (int64_t col = 0; col < 8; col++)
        test.weight.write(row, col, row < 8 && col == 1 ? value : row >= 8 && col == 0 ? 1.0 : 0.0);
      test.bias.write(0, row, row < 8 ? 0.0 : gate_bias);
    }
    test.copies.send();
    run(test);
    std::vector<double> results;
    for (int64_t row = 0; row < rows; row++) results.push_back(test.output.at(row, row % 8));
    return results;
  }
};

INSTANTIATE_TEST_SUITE_P(Gpu, GatedLinearCuda, testing::Values(DS_FLOAT16, DS_BFLOAT16), name_of_dtype);

TEST_P(GatedLinearCuda, MatchesReferenceForAnyRows) {
  for (const int64_t rows : {1, 2, 3, 17, 63, 64, 65, 127, 128, 129, 191, 257})
    for (const sizes &s : {sizes{rows, 64, 40}, sizes{rows, 72, 136}})
      run_and_check({.rows = s.rows, .in_features = s.in_features, .cols = s.cols});
}

TEST_P(GatedLinearCuda, MatchesReferenceForAnyColumns) {
  for (const int64_t cols : {8, 16, 40, 48, 72, 80, 88, 120, 128, 136, 160, 200, 256, 264})
    for (const ds_activation_type type : both)
      run_and_check({.rows = 67, .in_features = 40, .cols = cols, .activation_type = type});
}

TEST_P(GatedLinearCuda, MatchesReferenceForAnyDepth) {
  for (const int64_t in_features :
       {8, 16, 24, 56, 64, 72, 128, 136, 192, 256, 320, 328, 448, 512, 520, 584, 1280})
    run_and_check({.rows = 5, .in_features = in_features, .cols = 48});
}

TEST_P(GatedLinearCuda, MatchesReferenceWithoutBias) {
  for (const ds_activation_type type : both)
    for (const sizes &s : {sizes{1, 8, 8}, sizes{130, 200, 104}, sizes{31, 640, 320}})
      run_and_check({.rows = s.rows,
                     .in_features = s.in_features,
                     .cols = s.cols,
                     .activation_type = type,
                     .bias = false});
}

// Rows with something behind them, which is neither read nor written.
TEST_P(GatedLinearCuda, KeepsToItsRowsAndColumns) {
  for (const sizes &s : {sizes{65, 64, 40}, sizes{129, 72, 128}, sizes{3, 8, 8}, sizes{70, 136, 72}})
    for (const int64_t padding : {8, 64})
      run_and_check({.rows = s.rows, .in_features = s.in_features, .cols = s.cols, .padding = padding});
}

TEST_P(GatedLinearCuda, MatchesReferenceForModels) {
  for (const sizes &s :
       {sizes{8192, 320, 1280}, sizes{8192, 640, 2560}, sizes{2048, 640, 2560}, sizes{2048, 1280, 5120},
        sizes{512, 1280, 5120}, sizes{128, 1280, 5120}, sizes{1976, 1280, 5120}, sizes{288, 1280, 5120}})
    run_and_check_some({.rows = s.rows, .in_features = s.in_features, .cols = s.cols});
}

// Several tiles for each multiprocessor, with ragged ends, for products of one and of few blocks of depth.
TEST_P(GatedLinearCuda, MatchesReferenceForManyTiles) {
  for (const sizes &s :
       {sizes{8191, 64, 2568}, sizes{8191, 72, 2568}, sizes{4099, 192, 2600}, sizes{4099, 256, 2600},
        sizes{2049, 640, 2568}, sizes{1009, 200, 5128}, sizes{1, 320, 40008}, sizes{20011, 320, 136}})
    for (const ds_activation_type type : both)
      run_and_check_some(
          {.rows = s.rows, .in_features = s.in_features, .cols = s.cols, .activation_type = type});
}

// Every finite gate of 16 bits. The values' factor lifts results of the far negative side out of subnormals.
TEST_P(GatedLinearCuda, ActivatesEveryGate) {
  std::vector<double> gates;
  for (uint32_t bits = 0; bits < 1u << 16; bits++)
    if (const double gate = decode(dtype, bits); std::isfinite(gate)) gates.push_back(gate);
  for (const ds_activation_type type : both)
    for (const double value : {1.0, 256.0}) {
      const std::vector<double> results = activate(type, gates, value);
      for (size_t i = 0; i < gates.size() && !HasFatalFailure(); i++) {
        const bool silu = type == DS_ACTIVATION_GATED_SILU;
        const double activated = silu ? silu_reference(gates[i]) : gelu_reference(gates[i]);
        const double error = fast_activation_error(type, gates[i]);
        if (std::isinf(round_to(dtype, value * activated))) {
          ASSERT_EQ(results[i], value * gates[i] > 0 ? infinity : -infinity) << gates[i];
          continue;
        }
        expect_near(dtype, results[i], value * activated, value * error,
                    [&] { return std::string(silu ? "silu" : "gelu") + " of " + std::to_string(gates[i]); });
      }
    }
}

TEST_P(GatedLinearCuda, TreatsNonFiniteGatesAsPyTorch) {
  for (const ds_activation_type type : both) {
    EXPECT_EQ(activate(type, {1.0}, 1.0, infinity)[0], infinity);
    EXPECT_TRUE(std::isnan(activate(type, {1.0}, 1.0, -infinity)[0]));
    EXPECT_TRUE(std::isnan(activate(type, {1.0}, 1.0, nan)[0]));
    EXPECT_EQ(activate(type, {0.0}, 1.0)[0], 0.0);
  }
}

TEST_P(GatedLinearCuda, ServesOnlyWhatTheCopyEngineCanRead) {
  const gated_linear_case test(dtype, {.rows = 4, .in_features = 16, .cols = 8});
  const auto serves = [&](auto change) {
    ds_gated_linear_params params = test.params;
    change(&params);
    return module->gated_linear_serves(&params) != 0;
  };
  const auto next = [](const void *address) {
    return const_cast<char *>(static_cast<const char *>(address)) + 2;
  };
  EXPECT_TRUE(serves([](auto *) {}));
  EXPECT_TRUE(serves([&](auto *params) { params->bias = next(params->bias); }));
  EXPECT_TRUE(serves([](auto *params) { params->rows = 1, params->input_row_stride = 3; }));
  EXPECT_FALSE(serves([](auto *params) { params->dtype = DS_FLOAT32; }));
  EXPECT_FALSE(serves([&](auto *params) { params->input = next(params->input); }));
  EXPECT_FALSE(serves([&](auto *params) { params->weight = next(params->weight); }));
  EXPECT_FALSE(serves([&](auto *params) { params->output = next(params->output); }));
  EXPECT_FALSE(serves([](auto *params) { params->input_row_stride = 17; }));
  EXPECT_FALSE(serves([](auto *params) { params->input_row_stride = 0; }));
  EXPECT_FALSE(serves([](auto *params) { params->weight_row_stride = 20; }));
  EXPECT_FALSE(serves([](auto *params) { params->output_row_stride = 9; }));
  EXPECT_FALSE(serves([](auto *params) { params->in_features = 0; }));
  EXPECT_FALSE(serves([](auto *params) { params->in_features = 15; }));
  EXPECT_FALSE(serves([](auto *params) { params->cols = 7; }));
  EXPECT_FALSE(serves([](auto *params) { params->rows = 0; }));
}

TEST_P(GatedLinearCuda, IsCapturedInAGraph) {
  gated_linear_case test(dtype, {.rows = 200, .in_features = 320, .cols = 264});
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replayable = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  // Two, one behind the other: the second may start before the first has ended.
  for (int i = 0; i < 2; i++)
    EXPECT_EQ(module->gated_linear(&test.params, stream), DS_OK) << module->error_message();
  check_cuda(cudaStreamEndCapture(stream, &graph));
  check_cuda(cudaGraphInstantiate(&replayable, graph, 0));
  for (const double changed : {1.0, -2.0}) {
    test.input.write(3, 5, changed);
    test.copies.send();
    check_cuda(cudaGraphLaunch(replayable, stream));
    wait();
    test.copies.fetch();
    test.expect_result();
  }
  check_cuda(cudaGraphExecDestroy(replayable));
  check_cuda(cudaGraphDestroy(graph));
}

} // namespace
} // namespace ds_tests
