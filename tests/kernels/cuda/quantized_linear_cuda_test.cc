// The linear that reads an int8 weight itself, on a GPU against float64.
#include "quantized_linear_case.h"

namespace ds_tests {
namespace {

constexpr ds_activation_type forms[] = {DS_ACTIVATION_UNKNOWN, DS_ACTIVATION_GATED_GELU,
                                        DS_ACTIVATION_GATED_SILU};

// With more of them weights are dequantised.
int64_t most_rows(ds_activation_type gate) {
  return gate == DS_ACTIVATION_UNKNOWN ? 256 : 512;
}

struct sizes {
  int64_t rows, in_features, cols;
};

class QuantizedLinearCuda : public special_linear_test<quantized_linear_case> {};

INSTANTIATE_TEST_SUITE_P(Gpu, QuantizedLinearCuda, testing::Values(DS_FLOAT16, DS_BFLOAT16), name_of_dtype);

// The smallest first: what is wrong everywhere shows there best.
TEST_P(QuantizedLinearCuda, MultipliesOneBlock) {
  for (const ds_activation_type gate : forms)
    run_and_check({.rows = 3, .in_features = 64, .cols = 8, .gate = gate, .bias = false});
}

TEST_P(QuantizedLinearCuda, EveryNumberIsItself) {
  quantized_linear_case test(dtype, {.rows = 1, .in_features = 64, .cols = 256, .bias = false});
  for (int64_t i = 0; i < 64; i++) test.input.write(0, i, i == 37 ? 1.0 : 0.0);
  for (int64_t col = 0; col < 256; col++) {
    test.weight.write(col, 37, static_cast<double>(col - 128));
    test.scale.write(0, col, 1.0);
  }
  test.copies.send();
  run(test);
  for (int64_t col = 0; col < 256; col++) EXPECT_EQ(test.output.at(0, col), static_cast<double>(col - 128));
}

TEST_P(QuantizedLinearCuda, MatchesReferenceForAnyRows) {
  for (const int64_t rows : {1, 2, 3, 17, 63, 64, 65, 127, 128, 129, 191, 256, 257, 321, 385, 512})
    for (const ds_activation_type gate : forms) {
      if (rows > most_rows(gate)) continue;
      run_and_check({.rows = rows, .in_features = 64, .cols = 40, .gate = gate});
      run_and_check({.rows = rows, .in_features = 200, .cols = 136, .gate = gate});
    }
}

TEST_P(QuantizedLinearCuda, MatchesReferenceForAnyColumns) {
  for (const int64_t cols : {4, 8, 12, 36, 40, 44, 76, 80, 84, 120, 156, 160, 164, 200, 320})
    for (const ds_activation_type gate : forms)
      run_and_check({.rows = 67, .in_features = 80, .cols = cols, .gate = gate});
}

// More blocks of depth than stages, and so many that thread blocks share them.
TEST_P(QuantizedLinearCuda, MatchesReferenceForAnyDepth) {
  for (const int64_t in_features :
       {1, 8, 15, 16, 17, 48, 63, 64, 65, 128, 192, 200, 320, 511, 512, 513, 640, 1000, 1280, 2560, 5120})
    for (const ds_activation_type gate : forms)
      run_and_check({.rows = 5, .in_features = in_features, .cols = 48, .gate = gate});
}

TEST_P(QuantizedLinearCuda, AddsBiasAndResidual) {
  for (const sizes &s : {sizes{1, 16, 8}, sizes{130, 200, 104}, sizes{31, 1280, 320}, sizes{66, 5120, 84}})
    for (const bool bias : {false, true})
      for (const bool residual : {false, true})
        run_and_check({.rows = s.rows,
                       .in_features = s.in_features,
                       .cols = s.cols,
                       .bias = bias,
                       .residual = residual});
}

// Rows with something behind them, which is neither read nor written.
TEST_P(QuantizedLinearCuda, KeepsToItsRowsAndColumns) {
  for (const sizes &s : {sizes{65, 64, 40}, sizes{129, 72, 128}, sizes{3, 8, 8}, sizes{70, 136, 72}})
    for (const int64_t padding : {8, 64})
      for (const ds_activation_type gate : forms)
        run_and_check({.rows = s.rows,
                       .in_features = s.in_features,
                       .cols = s.cols,
                       .gate = gate,
                       .residual = gate == DS_ACTIVATION_UNKNOWN,
                       .padding = padding});
}

TEST_P(QuantizedLinearCuda, MatchesReferenceForModels) {
  for (const auto &[rows, channels] :
       {std::pair<int64_t, int64_t>{64, 320}, {224, 640}, {128, 1280}, {256, 1280}, {500, 1280}}) {
    run_and_check_some(
        {.rows = rows, .in_features = channels, .cols = 4 * channels, .gate = DS_ACTIVATION_GATED_GELU});
    if (rows > most_rows(DS_ACTIVATION_UNKNOWN)) continue;
    run_and_check_some({.rows = rows, .in_features = 4 * channels, .cols = channels, .residual = true});
    run_and_check_some({.rows = rows, .in_features = channels, .cols = 8 * channels, .bias = false});
  }
}

TEST_P(QuantizedLinearCuda, AScaleThatIsNotFiniteLeavesNothingFinite) {
  for (const double scale :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    quantized_linear_case test(dtype, {.rows = 40, .in_features = 80, .cols = 16});
    test.scale.write(0, 5, scale);
    for (int64_t i = 0; i < 80; i++) test.input.write(3, i, 0.0);
    test.copies.send();
    run(test);
    for (int64_t row = 0; row < 40; row++)
      for (int64_t col = 0; col < 16; col++)
        EXPECT_EQ(std::isfinite(test.output.at(row, col)), col != 5) << row << ", " << col;
  }
}

TEST_P(QuantizedLinearCuda, ServesOnlyWhatItCanRead) {
  const quantized_linear_case test(dtype, {.rows = 4, .in_features = 16, .cols = 8, .residual = true});
  const auto serves = [&](auto change) {
    ds_quantized_linear_params params = test.params;
    change(&params);
    return module->quantized_linear_serves(&params) != 0;
  };
  const auto next = [](const void *address, int bytes) {
    return const_cast<char *>(static_cast<const char *>(address)) + bytes;
  };
  EXPECT_TRUE(serves([](auto *) {}));
  EXPECT_TRUE(serves([](auto *params) { params->input = NULL; }));
  EXPECT_TRUE(serves([&](auto *params) { params->output = next(params->output, 8); }));
  EXPECT_TRUE(serves([](auto *params) { params->rows = 1, params->input_row_stride = 3; }));
  EXPECT_FALSE(serves([](auto *params) { params->dtype = DS_FLOAT32; }));
  EXPECT_FALSE(serves([&](auto *params) { params->input = next(params->input, 8); }));
  EXPECT_FALSE(serves(
      [&](auto *params) { params->weight = reinterpret_cast<const int8_t *>(next(params->weight, 8)); }));
  EXPECT_FALSE(serves([&](auto *params) { params->output = next(params->output, 4); }));
  EXPECT_FALSE(serves([&](auto *params) { params->residual = next(params->residual, 2); }));
  EXPECT_FALSE(serves([](auto *params) { params->input_row_stride = 17; }));
  EXPECT_FALSE(serves([](auto *params) { params->input_row_stride = 0; }));
  EXPECT_FALSE(serves([](auto *params) { params->weight_row_stride = 24; }));
  EXPECT_FALSE(serves([](auto *params) { params->weight_row_stride = 0; }));
  EXPECT_FALSE(serves([](auto *params) { params->output_row_stride = 10; }));
  EXPECT_FALSE(serves([](auto *params) { params->residual_row_stride = 9; }));
  EXPECT_FALSE(serves([](auto *params) { params->cols = 6; }));
  EXPECT_FALSE(serves([](auto *params) { params->in_features = 0; }));
  EXPECT_FALSE(serves([](auto *params) { params->rows = 0; }));
  EXPECT_TRUE(serves([](auto *params) { params->rows = 256; }));
  EXPECT_FALSE(serves([](auto *params) { params->rows = 257; }));
  for (const int64_t rows : {512, 513})
    EXPECT_EQ(serves([&](auto *params) {
                params->gate = DS_ACTIVATION_GATED_GELU, params->residual = NULL, params->rows = rows;
              }),
              rows == 512);
}

TEST_P(QuantizedLinearCuda, IsCapturedInAGraph) {
  for (const int64_t in_features : {320, 5120}) {
    quantized_linear_case test(dtype,
                               {.rows = 100, .in_features = in_features, .cols = 160, .residual = true});
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replayable = nullptr;
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    // Two, one behind the other: the second may start before the first has ended.
    for (int i = 0; i < 2; i++)
      EXPECT_EQ(module->quantized_linear(&test.params, stream), DS_OK) << module->error_message();
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
}

} // namespace
} // namespace ds_tests
