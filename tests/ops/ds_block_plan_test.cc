// What block_forward asks of its services: how many products, of what sizes, and memory once.
#include "block_case.h"
#include "plain_services.h"
#include <tuple>

namespace ds_tests {
namespace {

// (rows, in_features, out_features) of each product of a call.
std::vector<std::tuple<int64_t, int64_t, int64_t>> products(const block_options &options,
                                                            bool adds_residual = true) {
  block_case block(options);
  plain_services services(adds_residual);
  EXPECT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
  EXPECT_EQ(services.allocations, 1);
  std::vector<std::tuple<int64_t, int64_t, int64_t>> all;
  for (const ds_linear_params &linear : services.linears)
    all.emplace_back(linear.rows, linear.in_features, linear.out_features);
  return all;
}

using shapes = std::vector<std::tuple<int64_t, int64_t, int64_t>>;

const std::tuple<int64_t, int64_t, int64_t> out = {10, 12, 12}, ff_in = {10, 12, 20}, ff_out = {10, 10, 12};

TEST(BlockPlan, SeparateWeightsAreSeparateProducts) {
  EXPECT_EQ(products({.attn2 = {.present = false}}),
            (shapes{{10, 12, 12}, {10, 12, 12}, {10, 12, 12}, out, ff_in, ff_out}));
}

TEST(BlockPlan, AdjacentWeightsOfSelfAttentionAreOneProduct) {
  for (const bool biases : {false, true})
    EXPECT_EQ(
        products({.attn1 = {.biases = biases, .neighbours = adjacency::all}, .attn2 = {.present = false}}),
        (shapes{{10, 12, 36}, out, ff_in, ff_out}));
}

TEST(BlockPlan, AdjacentKeysAndValuesAreOneProduct) {
  EXPECT_EQ(products({.attn1 = {.neighbours = adjacency::key_value}, .attn2 = {.present = false}}),
            (shapes{{10, 12, 12}, {10, 12, 24}, out, ff_in, ff_out}));
}

TEST(BlockPlan, QueriesNeverJoinKeysOfAContext) {
  // 12 features, so that the weights of queries and keys would fit each other.
  EXPECT_EQ(products({.attn1 = {.context_tokens = 3, .context_features = 12, .neighbours = adjacency::all},
                      .attn2 = {.present = false}}),
            (shapes{{10, 12, 12}, {6, 12, 24}, out, ff_in, ff_out}));
}

TEST(BlockPlan, KeysAndValuesThatAreGivenAreNotProjected) {
  EXPECT_EQ(products({.attn2 = {.key_value_tokens = 3}}),
            (shapes{{10, 12, 12}, {10, 12, 12}, {10, 12, 12}, out, {10, 12, 12}, out, ff_in, ff_out}));
}

TEST(BlockPlan, KeysAndValuesAreReadWhereTheyAreGivenIfInVectors) {
  for (const int64_t row_gap : {0, 4, 2}) {
    block_case block({.attn2 = {.key_value_tokens = 3, .key_value_row_gap = row_gap}});
    plain_services services(true);
    ASSERT_EQ(block.call(nullptr, &services.table), DS_OK);
    const ds_attention_params &attention = services.attentions.at(1);
    const auto *given = static_cast<const float *>(block.at("attn2_key_value").data);
    const bool in_place = row_gap != 2;
    EXPECT_EQ(attention.key == given, in_place);
    EXPECT_EQ(attention.value == given + 12, in_place);
    const int64_t row = in_place ? 24 + row_gap : 12;
    for (const int64_t *strides : {attention.key_strides, attention.value_strides})
      EXPECT_EQ(index_list(strides, strides + 3), (index_list{3 * row, row, 4}));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(attention.key) % 16, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(attention.value) % 16, 0u);
  }
}

TEST(BlockPlan, BiasesApartKeepWeightsApart) {
  const auto count = [](adjacency neighbours) {
    return products({.attn1 = {.biases = true, .neighbours = neighbours}, .attn2 = {.present = false}})
        .size();
  };
  EXPECT_EQ(count(adjacency::weights_but_not_biases), 6u);
  EXPECT_EQ(count(adjacency::all_but_the_query_bias), 5u);
  EXPECT_EQ(count(adjacency::all), 4u);
}

TEST(BlockPlan, ResidualsGoToAServiceThatAddsThem) {
  for (const bool adds_residual : {false, true}) {
    block_case block({});
    plain_services services(adds_residual);
    ASSERT_EQ(block.call(nullptr, &services.table), DS_OK);
    int with_residual = 0;
    for (const ds_linear_params &linear : services.linears) with_residual += linear.residual != nullptr;
    EXPECT_EQ(with_residual, adds_residual ? 3 : 0);
  }
}

// (first output feature, number of them) of each product with so many input features but the attention's.
std::vector<std::pair<int64_t, int64_t>> pieces(const plain_services &services, int64_t in_features) {
  std::vector<std::pair<int64_t, int64_t>> all;
  const void *start = nullptr;
  for (const ds_linear_params &linear : services.linears)
    if (linear.in_features == in_features && linear.out_features != 12) {
      if (start == nullptr) start = linear.output;
      all.emplace_back(static_cast<const uint16_t *>(linear.output) - static_cast<const uint16_t *>(start),
                       linear.out_features);
    }
  return all;
}

TEST(BlockPlan, QuantizedWeightsBecomeCachedPieces) {
  block_case block({.dtype = DS_FLOAT16,
                    .batch = 1,
                    .tokens = 1,
                    .channels = 66,
                    .ff_inner = 33001,
                    .ff_in_groups = 1,
                    .ff_out_groups = 1,
                    .attn2 = {.present = false}});
  plain_services services(true);
  ASSERT_EQ(block.call(nullptr, &services.table), DS_OK);
  EXPECT_EQ(pieces(services, 33001), (std::vector<std::pair<int64_t, int64_t>>{{0, 64}, {64, 2}}));
  int64_t next = 0;
  for (const auto &[first, count] : pieces(services, 66)) {
    EXPECT_EQ(first, next);
    EXPECT_LE(count * 66 * 2, 8 << 20);
    next += count;
  }
  EXPECT_EQ(next, 66002);
}

TEST(BlockPlan, AGatedLinearReplacesTheProductAndItsMemory) {
  size_t bytes[2];
  for (const bool serves : {false, true}) {
    block_case block({.ff_inner = 1000, .activation_type = 4});
    plain_services services(true, true);
    services.serves_gated_linear = serves;
    services.table.linear_workspace_bytes = 0;
    ASSERT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
    EXPECT_EQ(services.linears.size(), serves ? 9u : 10u);
    ASSERT_EQ(services.gated_linears.size(), serves ? 1u : 0u);
    bytes[serves] = services.scratch_bytes;
    if (!serves) continue;
    const ds_gated_linear_params &gated = services.gated_linears[0];
    EXPECT_EQ(gated.rows, 10);
    EXPECT_EQ(gated.in_features, 12);
    EXPECT_EQ(gated.cols, 1000);
    EXPECT_EQ(gated.bias, block.at("ff_in_bias").data);
    EXPECT_EQ(gated.activation_type, DS_ACTIVATION_GATED_SILU);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(gated.input) % DS_SCRATCH_ALIGNMENT, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(gated.output) % DS_SCRATCH_ALIGNMENT, 0u);
  }
  EXPECT_GT(bytes[false], size_t{10 * 3 * 1000 * 4});
  EXPECT_LT(bytes[true], size_t{10 * 2 * 1000 * 4});
}

TEST(BlockPlan, WorkspacesLieWhereTheFeedForwardNeedsMemoryAnyway) {
  size_t bytes[2];
  for (const bool any : {false, true}) {
    block_case block({.dtype = DS_FLOAT16,
                      .batch = 8,
                      .tokens = 64,
                      .channels = 64,
                      .heads = 4,
                      .head_size = 16,
                      .ff_inner = 256});
    plain_services services(true);
    services.table.linear_workspace_bytes = any ? 1 << 30 : 0;
    ASSERT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
    for (const ds_linear_params &product : services.linears) {
      const size_t expected = product.out_features == 512 ? 64 << 10 : 3 * 512 * 64 * sizeof(float);
      EXPECT_EQ(product.workspace_bytes, any ? expected : 0);
      EXPECT_EQ(product.workspace != nullptr, any);
    }
    bytes[any] = services.scratch_bytes;
  }
  EXPECT_EQ(bytes[true], bytes[false]);
}

TEST(BlockPlan, Float32ProductsGetAllTheWorkspaceThatIsOfUse) {
  block_case block({.dtype = DS_FLOAT32});
  plain_services services(true);
  services.table.linear_workspace_bytes = 1 << 20;
  ASSERT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
  for (const ds_linear_params &product : services.linears) EXPECT_EQ(product.workspace_bytes, 1u << 20);
}

TEST(BlockPlan, AQuantizedWeightInPiecesIsGatedByItself) {
  block_case block({.dtype = DS_FLOAT16,
                    .batch = 1,
                    .tokens = 1,
                    .channels = 66,
                    .ff_inner = 33001,
                    .ff_in_groups = 1,
                    .attn2 = {.present = false}});
  plain_services services(true, true);
  ASSERT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
  EXPECT_TRUE(services.gated_linears.empty());
}

TEST(BlockPlan, ServicesThatReadQuantizedWeightsGetThem) {
  for (const auto &[in_groups, out_groups] : {std::pair{1, 1}, std::pair{1, 0}, std::pair{2, 1}}) {
    const block_options options = {.ff_in_groups = in_groups, .ff_out_groups = out_groups};
    block_case block(options), other(options);
    plain_services services(false), no_services(false);
    services.serves_quantized_linear = true;
    ASSERT_EQ(block.call(nullptr, &services.table), DS_OK);
    ASSERT_EQ(other.call(nullptr, &no_services.table), DS_OK);
    const size_t direct = (in_groups == 1) + (out_groups == 1);
    EXPECT_EQ(services.quantized_linears.size(), direct);
    EXPECT_EQ(no_services.quantized_linears.size(), 0u);
    EXPECT_EQ(services.linears.size() + direct, no_services.linears.size());
    EXPECT_LE(services.scratch_bytes, no_services.scratch_bytes);
    for (const ds_quantized_linear_params &each : services.quantized_linears) {
      const bool first = each.weight == block.at("ff_in_weight").data;
      EXPECT_EQ(each.gate, first ? DS_ACTIVATION_GATED_GELU : DS_ACTIVATION_UNKNOWN);
      EXPECT_EQ(each.residual == nullptr, first);
    }
  }
}

TEST(BlockPlan, AWholeDequantizedWeightIsGatedInOneStep) {
  block_case block({.ff_in_groups = 3});
  plain_services services(true, true);
  ASSERT_EQ(block.call(nullptr, &services.table), DS_OK);
  ASSERT_EQ(services.gated_linears.size(), 1u);
  EXPECT_NE(services.gated_linears[0].weight, block.at("ff_in_weight").data);
}

TEST(BlockPlan, HeadsAreViewsOfTheProduct) {
  block_case block({.attn1 = {.neighbours = adjacency::all}, .attn2 = {.present = false}});
  plain_services services(true);
  ASSERT_EQ(block.call(nullptr, &services.table), DS_OK);
  const ds_attention_params &attention = services.attentions.at(0);
  for (const int64_t *strides : {attention.query_strides, attention.key_strides, attention.value_strides})
    EXPECT_EQ(index_list(strides, strides + 3), (index_list{5 * 36, 36, 4}));
  EXPECT_EQ(static_cast<const float *>(attention.key) - static_cast<const float *>(attention.query), 12);
  EXPECT_EQ(static_cast<const float *>(attention.value) - static_cast<const float *>(attention.key), 12);
}

} // namespace
} // namespace ds_tests
