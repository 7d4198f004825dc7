// The calls that the boxed kernels are tested with.
#include "boxed_call.h"

namespace boxed {

using fake_torch::schemas;

namespace {

using arguments = std::map<std::string, value>;

arguments with(arguments base, const arguments &changes) {
  for (const auto &[name, changed] : changes) base[name] = changed;
  return base;
}

arguments without(arguments base, const std::vector<std::string> &names) {
  for (const std::string &name : names) base.erase(name);
  return base;
}

// All tensors of another dtype.
arguments as(ds_dtype dtype, arguments base) {
  for (auto &[name, given] : base)
    if (auto *spec = std::get_if<tensor_spec>(&given)) spec->dtype = dtype;
  return base;
}

tensor_spec tensor(std::vector<int64_t> sizes, layout where = layout::contiguous) {
  return {std::move(sizes), where, DS_FLOAT32};
}

void add_layer_norm(std::vector<call_spec> &calls) {
  const std::string op = "layer_norm", says = "ds_diffusers::layer_norm: ";
  const arguments all = {{"input", tensor({2, 3, 8})}, {"gamma", tensor({8})}, {"beta", tensor({8})}};
  calls.push_back({op, "all", all, ""});
  calls.push_back({op, "float16", as(DS_FLOAT16, all), ""});
  calls.push_back({op, "alone", {{"input", tensor({3, 8})}, {"epsilon", 1e-3}}, ""});
  calls.push_back({op, "empty", with(all, {{"input", tensor({0, 8})}}), ""});
  calls.push_back({op, "undefined_gamma", with(all, {{"gamma", undefined_tensor{}}}), ""});
  calls.push_back({op, "transposed", with(all, {{"input", tensor({2, 3, 8}, layout::transposed)}}), ""});
  calls.push_back(
      {op, "copies",
       with(all, {{"gamma", tensor({8}, layout::every_second)}, {"beta", tensor({8}, layout::every_second)}}),
       ""});
  calls.push_back({op, "input_none", without(all, {"input"}), says + "input is None, must be a tensor"});
  calls.push_back({op, "gamma_short", with(all, {{"gamma", tensor({7})}}),
                   says + "gamma has shape [7], must be [8], the size of input's last dimension"});
  calls.push_back({op, "epsilon", with(all, {{"epsilon", -1.0}}),
                   says + "epsilon is -1, must be finite and not negative"});
  calls.push_back(
      {op, "int64", as(DS_INT64, all), says + "input has dtype int64, must be float32, float16 or bfloat16"});
}

void add_layer_norm_residual(std::vector<call_spec> &calls) {
  const std::string op = "layer_norm_residual_store_pre_ln_res", says = "ds_diffusers::" + op + ": ";
  const arguments all = {{"input", tensor({2, 3, 8})},
                         {"bias", tensor({8})},
                         {"residual", tensor({2, 3, 8})},
                         {"gamma", tensor({8})},
                         {"beta", tensor({8})}};
  calls.push_back({op, "all", all, ""});
  calls.push_back({op, "bfloat16", as(DS_BFLOAT16, all), ""});
  calls.push_back({op, "required", without(all, {"bias", "gamma", "beta"}), ""});
  calls.push_back({op, "copies",
                   with(all, {{"residual", tensor({2, 3, 8}, layout::transposed)},
                              {"bias", tensor({8}, layout::every_second)},
                              {"beta", tensor({8}, layout::every_second)}}),
                   ""});
  calls.push_back(
      {op, "residual_none", without(all, {"residual"}), says + "residual is None, must be a tensor"});
  calls.push_back({op, "residual_shape", with(all, {{"residual", tensor({2, 8})}}),
                   says + "residual has shape [2, 8], must be [2, 3, 8], the shape of input"});
}

void add_gated_activation(std::vector<call_spec> &calls) {
  const std::string op = "gated_activation", says = "ds_diffusers::gated_activation: ";
  const arguments all = {
      {"activation", tensor({2, 3, 8})}, {"bias", tensor({8})}, {"activation_type", int64_t{3}}};
  calls.push_back({op, "all", all, ""});
  calls.push_back({op, "bfloat16", as(DS_BFLOAT16, all), ""});
  calls.push_back({op, "silu", with(without(all, {"bias"}), {{"activation_type", int64_t{4}}}), ""});
  calls.push_back({op, "copies",
                   with(all, {{"activation", tensor({2, 3, 8}, layout::transposed)},
                              {"bias", tensor({8}, layout::every_second)}}),
                   ""});
  calls.push_back({op, "activation_type", with(all, {{"activation_type", int64_t{1}}}),
                   says + "activation_type is 1, must be 3 (GATED_GELU) or 4 (GATED_SILU)"});
}

void add_nhwc_bias_add(std::vector<call_spec> &calls) {
  const std::string op = "nhwc_bias_add", says = "ds_diffusers::nhwc_bias_add: ";
  const arguments all = {{"activation", tensor({2, 3, 8})},
                         {"bias", tensor({8})},
                         {"other", tensor({2, 3, 8})},
                         {"other_bias", tensor({8})}};
  calls.push_back({op, "all", all, ""});
  calls.push_back({op, "float16", as(DS_FLOAT16, all), ""});
  calls.push_back({op, "bias_alone", without(all, {"other", "other_bias"}), ""});
  calls.push_back({op, "other", without(all, {"other_bias"}), ""});
  calls.push_back({op, "copies",
                   with(all, {{"activation", tensor({2, 3, 8}, layout::transposed)},
                              {"other", tensor({2, 3, 8}, layout::transposed)},
                              {"other_bias", tensor({8}, layout::every_second)}}),
                   ""});
  calls.push_back({op, "four_dimensions",
                   with(all, {{"activation", tensor({2, 8, 2, 3})}, {"other", tensor({2, 8, 2, 3})}}), ""});
  calls.push_back({op, "other_none", without(all, {"other"}),
                   says + "other is None, must be a tensor where other_bias is given"});
}

// One attention's weights and biases: 2 heads of 4, from 6 channels.
void add_attention(arguments &to, const std::string &name, int64_t features) {
  to[name + "_q_weight"] = tensor({8, 6});
  to[name + "_k_weight"] = tensor({8, features});
  to[name + "_v_weight"] = tensor({8, features});
  to[name + "_out_weight"] = tensor({6, 8});
  for (const char *part : {"q", "k", "v"}) to[name + "_" + part + "_bias"] = tensor({8});
  to[name + "_out_bias"] = tensor({6});
}

void add_block_forward(std::vector<call_spec> &calls) {
  const std::string op = "block_forward", says = "ds_diffusers::block_forward: ";
  arguments own = {{"hidden_states", tensor({2, 3, 6})}, {"ff_in_weight", tensor({10, 6})},
                   {"ff_in_bias", tensor({10})},         {"ff_out_weight", tensor({6, 5})},
                   {"ff_out_bias", tensor({6})},         {"heads", int64_t{2}}};
  for (const char *name : {"norm1", "norm3"}) {
    own[std::string(name) + "_weight"] = tensor({6});
    own[std::string(name) + "_bias"] = tensor({6});
  }
  add_attention(own, "attn1", 6);
  arguments both = with(own, {{"attn2_context", tensor({2, 4, 7})},
                              {"attn1_mask", tensor({2, 1, 3})},
                              {"attn2_mask", tensor({1, 2, 3, 4})},
                              {"norm2_weight", tensor({6})},
                              {"norm2_bias", tensor({6})}});
  add_attention(both, "attn2", 7);
  const std::vector<std::string> biases = {"norm1_weight", "norm1_bias",    "norm3_weight", "norm3_bias",
                                           "ff_in_bias",   "ff_out_bias",   "attn1_q_bias", "attn1_k_bias",
                                           "attn1_v_bias", "attn1_out_bias"};
  calls.push_back({op, "both", both, ""});
  calls.push_back({op, "self_attention_alone", own, ""});
  calls.push_back({op, "required", with(without(own, biases), {{"activation_type", int64_t{4}}}), ""});
  calls.push_back({op, "empty", with(own, {{"hidden_states", tensor({0, 3, 6})}}), ""});
  calls.push_back({op, "copies",
                   with(both, {{"hidden_states", tensor({2, 3, 6}, layout::transposed)},
                               {"attn2_context", tensor({2, 4, 7}, layout::transposed)},
                               {"attn1_q_weight", tensor({8, 6}, layout::transposed)},
                               {"attn1_mask", tensor({2, 1, 3}, layout::every_second)},
                               {"attn2_v_bias", tensor({8}, layout::every_second)},
                               {"ff_out_weight", tensor({6, 5}, layout::transposed)}}),
                   ""});
  calls.push_back({op, "heads", with(both, {{"heads", int64_t{3}}}),
                   says + "heads is 3, must be a divisor of 8, the number of rows of attn1_q_weight"});
  calls.push_back({op, "attn2_k_weight_none", without(both, {"attn2_k_weight"}),
                   says + "attn2_k_weight is None, must be a tensor"});
  calls.push_back({op, "norm_epsilon", with(own, {{"norm_epsilon", -1.0}}),
                   says + "norm_epsilon is -1, must be finite and not negative"});
}

} // namespace

const std::vector<call_spec> &calls() {
  static const std::vector<call_spec> all = [] {
    std::vector<call_spec> made;
    add_layer_norm(made);
    add_layer_norm_residual(made);
    add_gated_activation(made);
    add_nhwc_bias_add(made);
    add_block_forward(made);
    return made;
  }();
  return all;
}

std::vector<call_spec> calls_by_schema() {
  std::vector<call_spec> made;
  for (const std::string &text : schemas()) {
    const schema of = parse_schema(text);
    arguments all, required;
    for (const parameter &each : of.parameters) {
      if (each.type != "Tensor" && each.type != "Tensor?") continue;
      all[each.name] = tensor({2, 3, 8}, layout::transposed);
      if (each.type == "Tensor") required[each.name] = tensor({2, 3, 8});
    }
    made.push_back({of.op, "every_tensor", all, ""});
    made.push_back({of.op, "every_required_tensor", required, ""});
  }
  return made;
}

} // namespace boxed
