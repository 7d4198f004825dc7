// Every check of block_forward.
#include "block_case.h"
#include "plain_services.h"
#include "wrong_arguments.h"

namespace ds_tests {
namespace {

// All arguments that there are; 12 channels, 3 heads, contexts of 3 and 4 tokens with 7 features.
struct block_arguments : block_case {
  block_arguments()
      : block_case({.dtype = DS_FLOAT16,
                    .attn1 = {.context_tokens = 4, .biases = true, .mask_sizes = {2, 5, 4}},
                    .attn2 = {.context_tokens = 3, .biases = true, .mask_sizes = {2, 3, 5, 3}}}) {}
};

using wrong = wrong_argument<block_arguments>;

std::function<tensor &(block_arguments &)> argument(const std::string &name) {
  return [name](block_arguments &a) -> tensor & { return name == "output" ? a.output : a.at(name); };
}

wrong wrong_shape(const std::string &name, const index_list &shape, const std::string &message) {
  std::string test = name + "_of_shape";
  for (const int64_t size : shape) test += "_" + std::to_string(size);
  return {test,
          [name, shape](block_arguments &a) {
            tensor &t = argument(name)(a);
            t.sizes = shape;
            t.strides = contiguous_strides(shape);
          },
          DS_E_SHAPE, name + " has shape " + message};
}

wrong wrong_strides(const std::string &name, const index_list &strides, const std::string &message) {
  std::string test = name + "_of_strides";
  for (const int64_t stride : strides) test += "_" + std::to_string(stride);
  return {test, [name, strides](block_arguments &a) { argument(name)(a).strides = strides; }, DS_E_STRIDE,
          name + message};
}

bool ends_with(const std::string &text, const std::string &end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::vector<wrong> wrong_vectors() {
  std::vector<wrong> all;
  const auto add = [&](const std::string &name, int64_t size, const std::string &meaning) {
    const std::string must = ", must be [" + std::to_string(size) + "], " + meaning;
    all.push_back(wrong_shape(name, {size + 1}, "[" + std::to_string(size + 1) + "]" + must));
    all.push_back(wrong_shape(name, {1, size}, "[1, " + std::to_string(size) + "]" + must));
    all.push_back(wrong_strides(name, {2}, " has stride 2, must be contiguous"));
  };
  for (const std::string norm : {"norm1", "norm2", "norm3"})
    for (const std::string what : {"_weight", "_bias"})
      add(norm + what, 12, "the size of hidden_states' last dimension");
  for (const std::string attention : {"attn1", "attn2"})
    for (const std::string what : {"_q_bias", "_k_bias", "_v_bias", "_out_bias"})
      add(attention + what, 12, "the number of rows of its weight");
  add("ff_in_bias", 20, "the number of rows of its weight");
  add("ff_out_bias", 12, "the number of rows of its weight");
  return all;
}

std::vector<wrong> wrong_matrices() {
  std::vector<wrong> all;
  const std::string stride = " has stride 2 in its last dimension, must be 1";
  const std::string any_rows = ", must be [N, 12], with hidden_states' last dimension";
  for (const std::string name : {"attn1_q_weight", "attn2_q_weight", "ff_in_weight"}) {
    all.push_back(wrong_shape(name, {12, 11}, "[12, 11]" + any_rows));
    all.push_back(wrong_shape(name, {12}, "[12]" + any_rows));
    all.push_back(wrong_shape(name, {0, 12}, "[0, 12]" + any_rows));
    all.push_back(wrong_shape(name, {12, 12, 1}, "[12, 12, 1]" + any_rows));
    all.push_back(wrong_strides(name, {24, 2}, stride));
  }
  all.push_back(wrong_shape("ff_in_weight", {19, 12}, "[19, 12], must be of an even number of rows"));
  for (const std::string attention : {"attn1", "attn2"}) {
    for (const std::string &name : {attention + "_k_weight", attention + "_v_weight"}) {
      const std::string must = ", must be [12, 7], [rows of q_weight, features of the context]";
      all.push_back(wrong_shape(name, {12, 12}, "[12, 12]" + must));
      all.push_back(wrong_shape(name, {11, 7}, "[11, 7]" + must));
      all.push_back(wrong_shape(name, {84}, "[84]" + must));
      all.push_back(wrong_strides(name, {14, 2}, stride));
    }
    const std::string must = ", must be [12, 12], [channels of hidden_states, rows of q_weight]";
    all.push_back(wrong_shape(attention + "_out_weight", {11, 12}, "[11, 12]" + must));
    all.push_back(wrong_shape(attention + "_out_weight", {12, 13}, "[12, 13]" + must));
    all.push_back(
        wrong_strides(attention + "_out_weight", {1, 12}, " has stride 12 in its last dimension, must be 1"));
  }
  all.push_back(
      wrong_shape("ff_out_weight", {12, 20},
                  "[12, 20], must be [12, 10], [channels of hidden_states, half the rows of ff_in_weight]"));
  return all;
}

std::vector<wrong> wrong_contexts_and_masks() {
  std::vector<wrong> all;
  for (const std::string attention : {"attn1", "attn2"}) {
    const std::string context = attention + "_context", mask = attention + "_mask";
    const std::string tokens = attention == "attn1" ? "4" : "3";
    const std::string like_x = ", must be [2, T, K], with hidden_states' first dimension";
    all.push_back(wrong_shape(context, {1, 3, 7}, "[1, 3, 7]" + like_x));
    all.push_back(wrong_shape(context, {3, 7}, "[3, 7]" + like_x));
    for (const index_list &strides : {index_list{100, 1, 10}, index_list{100, 7, 1}, index_list{0, 7, 1}})
      all.push_back(
          wrong_strides(context, strides,
                        " has irregular strides, must have its rows at one stride and a contiguous last "
                        "dimension"));
    const std::string fits =
        ", must be [2 or 1, 5 or 1, " + tokens + "], or rank 4 with 3 or 1 heads as second dimension";
    for (const auto &[shape, text] : {std::pair<index_list, std::string>{{5}, "[5]"},
                                      {{5, 5}, "[5, 5]"},
                                      {{3, 5, 5}, "[3, 5, 5]"},
                                      {{2, 4, 3}, "[2, 4, 3]"},
                                      {{2, 5, 1}, "[2, 5, 1]"},
                                      {{2, 2, 5, 4}, "[2, 2, 5, 4]"},
                                      {{2, 3, 5, 4, 1}, "[2, 3, 5, 4, 1]"},
                                      {{2, 0, 5}, "[2, 0, 5]"}})
      all.push_back(wrong_shape(mask, shape, text + fits));
  }
  return all;
}

std::vector<wrong> wrong_others() {
  std::vector<wrong> all;
  const std::string three = ", must be [B, S, C] with C of 1 or more";
  all.push_back(wrong_shape("hidden_states", {10, 12}, "[10, 12]" + three));
  all.push_back(wrong_shape("hidden_states", {2, 5, 0}, "[2, 5, 0]" + three));
  all.push_back(wrong_shape("hidden_states", {2, 5, 3, 4}, "[2, 5, 3, 4]" + three));
  all.push_back(wrong_shape("output", {2, 5, 11}, "[2, 5, 11], must be [2, 5, 12]"));
  all.push_back(wrong_shape("output", {10, 12}, "[10, 12], must be [2, 5, 12]"));
  all.push_back(wrong_strides("output", {60, 1, 5}, " is not contiguous, must be contiguous"));
  for (const int64_t heads : {0, -1, 5, 24})
    all.push_back({"heads_" + std::to_string(all.size()), [heads](block_arguments &a) { a.heads = heads; },
                   DS_E_VALUE,
                   "heads is " + std::to_string(heads) +
                       ", must be a divisor of 12, the number of rows of attn1_q_weight"});
  all.push_back({"norm_epsilon", [](block_arguments &a) { a.epsilon = -1; }, DS_E_VALUE,
                 "norm_epsilon is -1, must be finite and not negative"});
  all.push_back({"activation_type", [](block_arguments &a) { a.activation_type = 1; }, DS_E_VALUE,
                 "activation_type is 1, must be 3 (GATED_GELU) or 4 (GATED_SILU)"});
  return all;
}

// What is left of a second attention whose queries' weight is missing, each alone.
std::vector<wrong> left_overs() {
  std::vector<wrong> all;
  const std::vector<std::string> names = {"attn2_context",  "attn2_mask",       "attn2_q_bias",
                                          "attn2_k_weight", "attn2_k_bias",     "attn2_v_weight",
                                          "attn2_v_bias",   "attn2_out_weight", "attn2_out_bias",
                                          "norm2_weight",   "norm2_bias"};
  for (const std::string &name : names)
    all.push_back({name + "_left_over",
                   [names, name](block_arguments &a) {
                     a.at("attn2_q_weight").given = false;
                     for (const std::string &other : names) a.at(other).given = other == name;
                   },
                   DS_E_NULL, name + " is given, must be None where attn2_q_weight is None"});
  return all;
}

std::vector<wrong> all_wrong() {
  std::vector<wrong> all;
  std::vector<std::string> names = block_arguments().names();
  names.push_back("output");
  for (const std::string &name : names) {
    const bool required =
        name == "hidden_states" || name == "output" ||
        (ends_with(name, "_weight") && name.compare(0, 4, "norm") != 0 && name != "attn2_q_weight");
    append(all, wrong_tensor<block_arguments>(name, argument(name), required, "hidden_states"));
  }
  // An int8 weight of the feed-forward lacks its scale, and is told so.
  std::erase_if(all, [](const wrong &each) {
    return each.name == "ff_in_weight_of_dtype_" + std::to_string(DS_INT8) ||
           each.name == "ff_out_weight_of_dtype_" + std::to_string(DS_INT8);
  });
  append(all, wrong_vectors());
  append(all, wrong_matrices());
  append(all, wrong_contexts_and_masks());
  append(all, wrong_others());
  append(all, left_overs());
  return all;
}

// Both weights of the feed-forward quantised: [20, 12] with a scale of [20], [12, 10] with one of [12, 5].
struct quantized_arguments : block_case {
  quantized_arguments()
      : block_case(
            {.dtype = DS_FLOAT16, .ff_in_groups = 1, .ff_out_groups = 5, .attn2 = {.present = false}}) {}
};

using wrong_quantized = wrong_argument<quantized_arguments>;

std::vector<wrong_quantized> wrong_kinds(const std::string &layer) {
  const std::string weight = layer + "_weight", scale = layer + "_scale";
  std::vector<wrong_quantized> all;
  const auto add = [&](const std::string &name, const std::string &way,
                       const std::function<void(tensor &)> &spoil, ds_status status,
                       const std::string &message) {
    all.push_back(
        {name + "_" + way, [name, spoil](quantized_arguments &a) { spoil(a.at(name)); }, status, message});
  };
  add(
      weight, "missing", [](tensor &t) { t.given = false; }, DS_E_NULL,
      weight + " is None, must be a tensor");
  add(
      scale, "missing", [](tensor &t) { t.given = false; }, DS_E_NULL,
      scale + " is None, must be a tensor where " + weight + " is int8");
  for (const ds_dtype dtype : {DS_FLOAT16, DS_FLOAT32, DS_UINT8, DS_INT32, DS_DTYPE_OTHER})
    add(
        weight, "of_dtype_" + std::to_string(dtype), [dtype](tensor &t) { t.dtype = dtype; }, DS_E_DTYPE,
        weight + " has dtype " + ds_dtype_name(dtype) + ", must be int8 where " + scale + " is given");
  for (const ds_dtype dtype : {DS_FLOAT16, DS_BFLOAT16, DS_FLOAT64, DS_INT8, DS_DTYPE_OTHER})
    add(
        scale, "of_dtype_" + std::to_string(dtype), [dtype](tensor &t) { t.dtype = dtype; }, DS_E_DTYPE,
        scale + " has dtype " + ds_dtype_name(dtype) + ", must be float32");
  for (const std::string &name : {weight, scale}) {
    add(
        name, "without_memory", [](tensor &t) { t.data = nullptr; }, DS_E_NULL,
        name + " has no memory, must have its elements in memory");
    add(
        name, "on_unknown_device", [](tensor &t) { t.device_type = DS_DEVICE_OTHER; }, DS_E_DEVICE,
        name + " is on a device that is not supported, must be on the CPU or a CUDA device");
    add(
        name, "on_another_device", [](tensor &t) { t.device_type = DS_CUDA; }, DS_E_DEVICE,
        name + " is on cuda:0, must be on cpu, the device of hidden_states");
  }
  return all;
}

std::vector<wrong_quantized> wrong_layouts() {
  std::vector<wrong_quantized> all;
  const auto shape = [&](const std::string &name, const index_list &sizes, const std::string &message) {
    all.push_back({name + "_shape_" + std::to_string(all.size()),
                   [name, sizes](quantized_arguments &a) {
                     a.at(name).sizes = sizes;
                     a.at(name).strides = contiguous_strides(sizes);
                   },
                   DS_E_SHAPE, name + " has shape " + message});
  };
  const auto strides = [&](const std::string &name, const index_list &steps, const std::string &message) {
    all.push_back({name + "_strides_" + std::to_string(all.size()),
                   [name, steps](quantized_arguments &a) { a.at(name).strides = steps; }, DS_E_STRIDE,
                   name + message});
  };
  const std::string in_scale = ", must be [20] or [20, G], the rows of ff_in_weight and a divisor of its 12 "
                               "columns";
  for (const auto &[sizes, text] : {std::pair<index_list, std::string>{{}, "[]"},
                                    {{1}, "[1]"},
                                    {{19}, "[19]"},
                                    {{1, 20}, "[1, 20]"},
                                    {{20, 0}, "[20, 0]"},
                                    {{20, 5}, "[20, 5]"},
                                    {{20, 24}, "[20, 24]"},
                                    {{19, 2}, "[19, 2]"},
                                    {{20, 1, 1}, "[20, 1, 1]"}})
    shape("ff_in_scale", sizes, text + in_scale);
  shape("ff_out_scale", {12, 3},
        "[12, 3], must be [12] or [12, G], the rows of ff_out_weight and a divisor of its 10 columns");
  strides("ff_in_scale", {2}, " is not contiguous, must be contiguous");
  strides("ff_out_scale", {1, 12}, " is not contiguous, must be contiguous");
  shape("ff_in_weight", {20, 11}, "[20, 11], must be [N, 12], with hidden_states' last dimension");
  shape("ff_out_weight", {12, 11},
        "[12, 11], must be [12, 10], [channels of hidden_states, half the rows of ff_in_weight]");
  strides("ff_in_weight", {24, 2}, " has stride 2 in its last dimension, must be 1");
  strides("ff_out_weight", {1, 12}, " has stride 12 in its last dimension, must be 1");
  return all;
}

std::vector<wrong_quantized> all_wrong_quantized() {
  std::vector<wrong_quantized> all;
  append(all, wrong_kinds("ff_in"));
  append(all, wrong_kinds("ff_out"));
  append(all, wrong_layouts());
  return all;
}

class QuantizedBlockArguments : public testing::TestWithParam<wrong_quantized> {};

INSTANTIATE_TEST_SUITE_P(Wrong, QuantizedBlockArguments, testing::ValuesIn(all_wrong_quantized()),
                         name_of_wrong_argument<quantized_arguments>);

TEST_P(QuantizedBlockArguments, AreRefused) {
  quantized_arguments a;
  plain_services services(true);
  GetParam().spoil(a);
  expect_refusal("block_forward", a.call(nullptr, &services.table), GetParam().status, GetParam().message);
  EXPECT_EQ(services.calls, 0);
  a.output.expect_untouched();
}

// Keys and values of 3 tokens in the place of a second context.
struct key_value_arguments : block_case {
  key_value_arguments()
      : block_case({.dtype = DS_FLOAT16,
                    .attn2 = {.biases = true, .mask_sizes = {2, 3, 5, 3}, .key_value_tokens = 3}}),
        others({.dtype = DS_FLOAT16, .attn2 = {.context_tokens = 3, .biases = true}}) {}

  block_case others; // whose tensors can be given besides
};

using wrong_key_value = wrong_argument<key_value_arguments>;

std::vector<wrong_key_value> all_wrong_key_values() {
  const std::string name = "attn2_key_value";
  std::vector<wrong_key_value> all = wrong_tensor<key_value_arguments>(
      name, [name](key_value_arguments &a) -> tensor & { return a.at(name); }, false, "hidden_states");
  for (const auto &[sizes, text] : {std::pair<index_list, std::string>{{2, 3, 12}, "[2, 3, 12]"},
                                    {{2, 3, 23}, "[2, 3, 23]"},
                                    {{1, 3, 24}, "[1, 3, 24]"},
                                    {{3, 24}, "[3, 24]"},
                                    {{2, 3, 2, 12}, "[2, 3, 2, 12]"}})
    all.push_back({name + "_shape_" + std::to_string(all.size()),
                   [name, sizes](key_value_arguments &a) {
                     a.at(name).sizes = sizes;
                     a.at(name).strides = contiguous_strides(sizes);
                   },
                   DS_E_SHAPE,
                   name + " has shape " + text +
                       ", must be [2, T, 24], with hidden_states' first dimension and twice the rows of "
                       "q_weight"});
  for (const index_list &strides : {index_list{100, 24, 1}, index_list{0, 24, 1}, index_list{72, 1, 3}})
    all.push_back({name + "_strides_" + std::to_string(all.size()),
                   [name, strides](key_value_arguments &a) { a.at(name).strides = strides; }, DS_E_STRIDE,
                   name + " has irregular strides, must have its rows at one stride and a contiguous last "
                          "dimension"});
  for (const std::string replaced :
       {"attn2_context", "attn2_k_weight", "attn2_k_bias", "attn2_v_weight", "attn2_v_bias"})
    all.push_back({replaced + "_besides",
                   [replaced](key_value_arguments &a) { a.lend(replaced, a.others.at(replaced)); }, DS_E_NULL,
                   replaced + " is given, must be None where attn2_key_value is given"});
  all.push_back({"attn1_key_value", [name](key_value_arguments &a) { a.lend("attn1_key_value", a.at(name)); },
                 DS_E_NULL, "attn1_key_value is given, must be None"});
  all.push_back({"attn2_key_value_alone",
                 [](key_value_arguments &a) {
                   for (const std::string &each : a.names())
                     if (each.compare(0, 5, "attn2") == 0 || each.compare(0, 5, "norm2") == 0)
                       a.at(each).given = each == "attn2_key_value";
                 },
                 DS_E_NULL, "attn2_key_value is given, must be None where attn2_q_weight is None"});
  all.push_back(
      {"attn2_mask_of_other_tokens", [](key_value_arguments &a) { a.at("attn2_mask").sizes[3] = 2; },
       DS_E_SHAPE,
       "attn2_mask has shape [2, 3, 5, 2], must be [2 or 1, 5 or 1, 3], or rank 4 with 3 or 1 heads "
       "as second dimension"});
  return all;
}

class BlockKeyValueArguments : public testing::TestWithParam<wrong_key_value> {};

INSTANTIATE_TEST_SUITE_P(Wrong, BlockKeyValueArguments, testing::ValuesIn(all_wrong_key_values()),
                         name_of_wrong_argument<key_value_arguments>);

TEST_P(BlockKeyValueArguments, AreRefused) {
  key_value_arguments a;
  plain_services services(true);
  GetParam().spoil(a);
  expect_refusal("block_forward", a.call(nullptr, &services.table), GetParam().status, GetParam().message);
  EXPECT_EQ(services.calls, 0);
  a.output.expect_untouched();
}

class BlockArguments : public testing::TestWithParam<wrong> {};

INSTANTIATE_TEST_SUITE_P(Wrong, BlockArguments, testing::ValuesIn(all_wrong()),
                         name_of_wrong_argument<block_arguments>);

TEST_P(BlockArguments, AreRefused) {
  block_arguments a;
  plain_services services(true);
  GetParam().spoil(a);
  expect_refusal("block_forward", a.call(nullptr, &services.table), GetParam().status, GetParam().message);
  EXPECT_EQ(services.calls, 0);
  a.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
