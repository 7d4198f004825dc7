// block_forward on plain services against float64, with either way of adding the residual and of gating.
#include "block_reference.h"
#include "parallel.h"
#include "plain_services.h"

namespace ds_tests {
namespace {

class Block : public testing::TestWithParam<std::tuple<bool, bool, ds_dtype>> {
protected:
  bool adds_residual() const { return std::get<0>(GetParam()); }
  bool gates() const { return std::get<1>(GetParam()); }
  bool serves_quantized_linear = false;
  ds_dtype dtype() const { return std::get<2>(GetParam()); }

  void run_and_check(block_options options, const std::string &what = "") {
    SCOPED_TRACE(what);
    options.dtype = dtype();
    block_case block(options);
    plain_services services(adds_residual(), gates());
    services.serves_quantized_linear = serves_quantized_linear;
    ASSERT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
    expect_result(block, block.output);
    EXPECT_EQ(services.allocations, 1);
    block.output.expect_untouched_around();
  }

  // `output` is what `block` must give.
  void expect_result(block_case &block, const tensor &output) {
    block_reference reference(block);
    // Every step in between is rounded to the dtype, too.
    const double bound = unit_at(dtype(), 4.0) * (dtype() == DS_FLOAT32 ? 16 : 6);
    for (int64_t batch = 0; batch < block.options.batch; batch++) {
      const grid expected = reference(batch);
      for (int64_t token = 0; token < block.options.tokens; token++)
        for (int64_t channel = 0; channel < block.options.channels; channel++)
          ASSERT_NEAR(output.at({batch, token, channel}),
                      expected[static_cast<size_t>(token)][static_cast<size_t>(channel)], bound)
              << batch << ", " << token << ", " << channel;
    }
  }
};

std::string name_of_service(const testing::TestParamInfo<std::tuple<bool, bool, ds_dtype>> &info) {
  return std::string(std::get<0>(info.param) ? "linear_adds_residual_" : "") +
         (std::get<1>(info.param) ? "gated_linear_" : "") + ds_dtype_name(std::get<2>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Plain, Block,
                         testing::Combine(testing::Bool(), testing::Bool(),
                                          testing::Values(DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16)),
                         name_of_service);

TEST_P(Block, MatchesReference) {
  run_and_check({}, "double self-attention");
  run_and_check({.attn2 = {.context_tokens = 3}}, "cross-attention");
  run_and_check({.attn1 = {.context_tokens = 4}, .attn2 = {.context_tokens = 3}}, "cross-attention twice");
  run_and_check({.attn2 = {.present = false}}, "self-attention only");
}

TEST_P(Block, TakesKeysAndValues) {
  for (const int64_t tokens : {1, 3, 77})
    for (const int64_t batch : {1, 3}) {
      run_and_check({.batch = batch, .attn2 = {.biases = true, .key_value_tokens = tokens}});
      run_and_check({.batch = batch,
                     .attn1 = {.context_tokens = 4},
                     .attn2 = {.key_value_tokens = tokens, .key_value_row_gap = 8}},
                    "rows apart");
    }
  for (const index_list &sizes : {index_list{2, 5, 4}, index_list{1, 1, 4}, index_list{2, 3, 5, 4}})
    run_and_check({.attn2 = {.mask_sizes = sizes, .key_value_tokens = 4}}, "with a mask");
  for (const int64_t groups : {1, 2})
    run_and_check({.ff_in_groups = groups, .ff_out_groups = groups, .attn2 = {.key_value_tokens = 3}},
                  "int8");
}

// Values that do not begin at a vector, or do so in some rows alone.
TEST_P(Block, TakesKeysAndValuesThatAreNotInVectors) {
  for (const int64_t tokens : {1, 3}) {
    run_and_check({.heads = 2, .head_size = 5, .attn2 = {.key_value_tokens = tokens}}, "of odd width");
    run_and_check({.head_size = 8, .attn2 = {.key_value_tokens = tokens, .key_value_row_gap = 1}},
                  "rows apart");
  }
  block_case plain({.dtype = dtype(), .head_size = 8, .attn2 = {.key_value_tokens = 3}});
  block_case shifted(plain.options);
  tensor &key_value = plain.at("attn2_key_value");
  tensor memory(dtype(), {1, key_value.sizes[1] * 2 * key_value.sizes[2] + 1});
  tensor &moved = shifted.at("attn2_key_value");
  moved.data = static_cast<char *>(memory.data) + ds_dtype_bytes(dtype());
  std::memcpy(moved.data, key_value.data,
              static_cast<size_t>(ds_tensor_numel(key_value.get())) * ds_dtype_bytes(dtype()));
  plain_services services(adds_residual(), gates());
  ASSERT_EQ(shifted.call(nullptr, &services.table), DS_OK) << ds_error_message();
  expect_result(plain, shifted.output);
}

TEST_P(Block, TakesAnyBatchAndTokens) {
  for (const int64_t batch : {1, 3})
    for (const int64_t tokens : {1, 2, 7, 13, 77})
      run_and_check({.batch = batch, .tokens = tokens, .attn2 = {.context_tokens = tokens % 5 + 1}},
                    std::to_string(batch) + " x " + std::to_string(tokens));
}

TEST_P(Block, TakesAnyWidths) {
  // Not 2 or 3: the norm of two numbers that happen to be close multiplies their rounding.
  for (const int64_t channels : {1, 9, 17, 40})
    for (const int64_t head_size : {1, 3, 8})
      run_and_check({.channels = channels, .heads = 2, .head_size = head_size, .ff_inner = channels % 4 + 1},
                    std::to_string(channels) + " channels, heads of " + std::to_string(head_size));
}

TEST_P(Block, OptionalWeightsCanBeMissing) {
  run_and_check({.norms = false}, "norms without weights");
  run_and_check({.output_biases = false}, "no output biases");
  run_and_check({.norms = false, .output_biases = false}, "neither");
  run_and_check({.attn1 = {.biases = true}, .attn2 = {.biases = true}}, "with biases of q, k and v");
}

TEST_P(Block, AddsTheMasks) {
  const index_list all_sizes[] = {{2, 5, 5},    {1, 5, 5},    {2, 1, 5},    {1, 1, 5},
                                  {2, 3, 5, 5}, {1, 3, 5, 5}, {2, 1, 5, 5}, {2, 3, 1, 5},
                                  {1, 1, 1, 5}, {1, 3, 1, 5}, {2, 1, 1, 5}};
  for (const index_list &sizes : all_sizes) {
    run_and_check({.attn1 = {.mask_sizes = sizes}}, "on the first attention");
    run_and_check({.attn2 = {.context_tokens = 5, .mask_sizes = sizes}}, "on the second attention");
  }
}

TEST_P(Block, SupportsSwiGLU) {
  run_and_check({.activation_type = 4});
}

TEST_P(Block, TakesQuantizedWeights) {
  for (const bool serves : {false, true}) {
    serves_quantized_linear = serves;
    for (const auto &[in_groups, out_groups] :
         {std::pair{1, 1}, std::pair{1, 0}, std::pair{0, 1}, std::pair{3, 5}, std::pair{12, 10}})
      for (const bool biases : {true, false})
        run_and_check({.ff_in_groups = in_groups, .ff_out_groups = out_groups, .output_biases = biases},
                      std::to_string(in_groups) + " and " + std::to_string(out_groups) + " groups");
    run_and_check({.channels = 9, .head_size = 3, .ff_inner = 7, .ff_in_groups = 9, .ff_out_groups = 7});
    run_and_check({.channels = 1, .ff_inner = 1, .ff_in_groups = 1, .ff_out_groups = 1});
    run_and_check({.ff_in_groups = 1, .ff_out_groups = 1, .activation_type = 4}, "SwiGLU");
  }
}

// More of them than are dequantised at once.
TEST_P(Block, TakesLargeQuantizedWeights) {
  if (dtype() != DS_FLOAT16) return;
  run_and_check({.batch = 1,
                 .tokens = 2,
                 .channels = 66,
                 .ff_inner = 33001,
                 .ff_in_groups = 1,
                 .ff_out_groups = 1,
                 .attn2 = {.present = false}});
}

TEST_P(Block, TakesHiddenStatesOfAnyStrides) {
  const index_list all_strides[] = {{60, 1, 5}, {100, 20, 1}, {90, 15, 1}, {12, 24, 1},
                                    {1, 30, 2}, {0, 12, 1},   {0, 0, 1}};
  for (const index_list &strides : all_strides) {
    run_and_check({.hidden_strides = strides}, "with a second attention");
    run_and_check({.attn2 = {.present = false}, .hidden_strides = strides}, "without");
  }
}

TEST_P(Block, WeightsSideBySideGiveTheSame) {
  for (const adjacency first : {adjacency::none, adjacency::key_value, adjacency::all,
                                adjacency::weights_but_not_biases, adjacency::all_but_the_query_bias})
    for (const adjacency second : {adjacency::none, adjacency::key_value, adjacency::all})
      for (const bool biases : {false, true})
        for (const int64_t context_tokens : {-1, 3})
          run_and_check(
              {.attn1 = {.biases = biases, .neighbours = first},
               .attn2 = {.context_tokens = context_tokens, .biases = biases, .neighbours = second}});
}

TEST_P(Block, MasksAndContextsCanBeViews) {
  block_options options = {
      .dtype = dtype(), .attn1 = {.mask_sizes = {2, 1, 5, 5}}, .attn2 = {.context_tokens = 3}};
  block_case plain(options), views(options);
  tensor mask(dtype(), {2, 5, 5}, {100, 1, 7}), context(dtype(), {2, 3, 7}, {30, 10, 1});
  for_each_index(mask.sizes, [&](const index_list &i) {
    mask.write(i, plain.at("attn1_mask").at({i[0], 0, i[1], i[2]}));
  });
  for_each_index(context.sizes,
                 [&](const index_list &i) { context.write(i, plain.at("attn2_context").at(i)); });
  views.at("attn1_mask").sizes = mask.sizes;
  views.at("attn1_mask").strides = mask.strides;
  views.at("attn1_mask").data = mask.data;
  views.at("attn2_context").strides = context.strides;
  views.at("attn2_context").data = context.data;
  plain_services services(adds_residual(), gates());
  ASSERT_EQ(views.call(nullptr, &services.table), DS_OK) << ds_error_message();
  expect_result(plain, views.output);
}

// Rows of a wider matrix: a slice of a fused weight, say.
TEST_P(Block, WeightsCanBeSlices) {
  const block_options options = {.dtype = dtype(), .attn2 = {.context_tokens = 3}};
  block_case plain(options), sliced(options);
  std::vector<std::unique_ptr<tensor>> wider;
  for (const std::string &name : plain.names()) {
    tensor &weight = sliced.at(name);
    if (weight.sizes.size() != 2) continue;
    wider.push_back(std::make_unique<tensor>(dtype(), weight.sizes, index_list{weight.sizes[1] + 5, 1}));
    for_each_index(weight.sizes, [&](const index_list &i) { wider.back()->write(i, plain.at(name).at(i)); });
    weight.strides = wider.back()->strides;
    weight.data = wider.back()->data;
  }
  ASSERT_EQ(wider.size(), 10u);
  plain_services services(adds_residual(), gates());
  ASSERT_EQ(sliced.call(nullptr, &services.table), DS_OK) << ds_error_message();
  expect_result(plain, sliced.output);
}

TEST_P(Block, ThreadsChangeNothing) {
  block_case alone({.dtype = dtype(), .tokens = 40}), threads({.dtype = dtype(), .tokens = 40});
  plain_services services(adds_residual(), gates());
  const ds_context context = {parallel_threads, nullptr, nullptr};
  ASSERT_EQ(alone.call(nullptr, &services.table), DS_OK);
  ASSERT_EQ(threads.call(&context, &services.table), DS_OK);
  for_each_index(alone.output.sizes,
                 [&](const index_list &i) { ASSERT_EQ(threads.output.at(i), alone.output.at(i)); });
}

TEST_P(Block, EmptyInputsCallNoService) {
  for (const auto &[batch, tokens] : {std::pair{0, 5}, std::pair{2, 0}}) {
    block_case block({.dtype = dtype(), .batch = batch, .tokens = tokens});
    plain_services services(adds_residual(), gates());
    EXPECT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
    EXPECT_EQ(services.calls, 0);
    block.output.expect_untouched();
  }
}

// Whichever service call fails, its status and message come back and no service is called after it.
TEST_P(Block, AFailingServiceEndsTheCall) {
  for (const attention_options &attn2 :
       {attention_options{.context_tokens = 3}, attention_options{.key_value_tokens = 3}}) {
    const block_options options = {.dtype = dtype(), .attn2 = attn2};
    plain_services healthy(adds_residual(), gates());
    ASSERT_EQ(block_case(options).call(nullptr, &healthy.table), DS_OK);
    ASSERT_GT(healthy.calls, 8);
    for (int failing = 1; failing <= healthy.calls; failing++) {
      block_case block(options);
      plain_services services(adds_residual(), gates());
      services.fail_at = failing;
      EXPECT_EQ(block.call(nullptr, &services.table), DS_E_SERVICE);
      EXPECT_EQ(ds_error_message(), "service call " + std::to_string(failing) + " fails");
      EXPECT_EQ(services.calls, failing);
    }
  }
}

int parallel_calls, failing_parallel_call;

ds_status parallel_failing_later(int64_t begin, int64_t end, int64_t, ds_range_fn range, void *argument) {
  if (++parallel_calls == failing_parallel_call) return ds_error(DS_E_SERVICE, "threads fail");
  range(begin, end, argument);
  return DS_OK;
}

// Keys and values of odd width are copied.
TEST_P(Block, AFailureOfTheThreadsEndsTheCall) {
  const ds_context context = {parallel_failing_later, nullptr, nullptr};
  const block_options options = {
      .dtype = dtype(), .heads = 2, .head_size = 5, .attn2 = {.key_value_tokens = 3}};
  plain_services healthy(adds_residual(), gates());
  parallel_calls = failing_parallel_call = 0;
  ASSERT_EQ(block_case(options).call(&context, &healthy.table), DS_OK);
  const int needed = parallel_calls;
  ASSERT_GE(needed, gates() ? 5 : 6);
  for (failing_parallel_call = 1; failing_parallel_call <= needed; failing_parallel_call++) {
    parallel_calls = 0;
    block_case block(options);
    plain_services services(adds_residual(), gates());
    EXPECT_EQ(block.call(&context, &services.table), DS_E_SERVICE);
    EXPECT_STREQ(ds_error_message(), "threads fail");
    EXPECT_EQ(parallel_calls, failing_parallel_call);
  }
}

} // namespace
} // namespace ds_tests
