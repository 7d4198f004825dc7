// The calls that the boxed kernels are tested with.
#include "boxed_call.h"

namespace boxed {

using namespace fake_torch;

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

// An optional argument that takes the place of others. Calls with all arguments are made with it, and a
// second time without it, with the others.
const std::string replacing = "attn2_key_value";

// Every tensor of these sizes, and each scalar without a default 2, to begin with.
call_spec first_attempt(const schema &of, const std::string &name, const std::vector<int64_t> &sizes,
                        bool with_optional) {
  call_spec call = {of.op, name, {}, ""};
  for (const parameter &each : of.parameters) {
    if (each.type == "Tensor" || (each.type == "Tensor?" && with_optional))
      call.arguments[each.name] = tensor(sizes);
    else if (each.type == "int" && each.default_text.empty())
      call.arguments[each.name] = int64_t{2};
    else if (each.type == "float" && each.default_text.empty())
      call.arguments[each.name] = 2.0;
  }
  return call;
}

// A call that differs from `base` and is put right where that needs other arguments too.
call_spec variant(const call_spec &base, const std::string &name, const arguments &changed) {
  return corrected({base.op, name, changed, ""});
}

arguments laid_out(layout where, arguments base) {
  for (auto &[name, given] : base)
    if (auto *spec = std::get_if<tensor_spec>(&given))
      if (where != layout::transposed || spec->sizes.size() >= 2) spec->where = where;
  return base;
}

// The schema without an argument, which is None in all calls that are made of it.
schema without_parameter(schema of, const std::string &name) {
  std::erase_if(of.parameters, [&](const parameter &each) { return each.name == name; });
  return of;
}

// Calls of an operator that work, whatever it does: its own errors lead to them. `prefix`: of their names.
void add_right_calls(const schema &of, const std::string &prefix, std::vector<call_spec> &calls) {
  const auto add = [&](const std::string &name, const std::vector<int64_t> &sizes, bool with_optional) {
    calls.push_back(corrected(first_attempt(of, prefix + name, sizes, with_optional)));
  };
  add("all", {2, 4, 8}, true);
  const call_spec all = calls.back();
  add("required", {2, 4, 8}, false);
  add("odd_rows", {3, 5, 6}, true);
  add("one_row", {1, 1, 2}, true);
  add("empty", {0, 4, 8}, true);
  add("four_dimensions", {2, 6, 3, 4}, true);
  calls.push_back(variant(all, prefix + "float16", as(DS_FLOAT16, all.arguments)));
  calls.push_back(variant(all, prefix + "bfloat16", as(DS_BFLOAT16, all.arguments)));
  calls.push_back(variant(all, prefix + "transposed", laid_out(layout::transposed, all.arguments)));
  calls.push_back(variant(all, prefix + "every_second", laid_out(layout::every_second, all.arguments)));
}

// The same with one argument absent or wrong.
void add_changed_calls(const schema &of, const std::string &prefix, std::vector<call_spec> &calls) {
  const call_spec all = corrected(first_attempt(of, "all", {2, 4, 8}, true));
  const call_spec half = variant(all, "half", as(DS_FLOAT16, all.arguments));
  const std::string says = "ds_diffusers::" + of.op + ": ";
  for (const parameter &each : of.parameters) {
    const auto given = all.arguments.find(each.name);
    if (given == all.arguments.end() || !std::holds_alternative<tensor_spec>(given->second)) continue;
    tensor_spec of_int64 = std::get<tensor_spec>(given->second);
    of_int64.dtype = DS_INT64;
    calls.push_back({of.op, prefix + each.name + "_int64", with(all.arguments, {{each.name, of_int64}}),
                     says + each.name + " has dtype int64, must be "});
    // Meta kernels compare dtypes, but for tensors that have one of their own.
    calls.back().right_on_meta = std::get<tensor_spec>(half.arguments.at(each.name)).dtype != DS_FLOAT16;
    const arguments others = without(all.arguments, {each.name});
    if (each.type == "Tensor") {
      calls.push_back(
          {of.op, prefix + each.name + "_none", others, says + each.name + " is None, must be a tensor"});
    } else {
      calls.push_back(variant(all, prefix + "without_" + each.name, others));
      calls.push_back(
          variant(all, prefix + each.name + "_undefined", with(others, {{each.name, undefined_tensor{}}})));
    }
  }
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

// What no error leads to: a context of other sizes than the hidden states, all of masks' forms, and groups of
// a quantised weight.
void add_block_forward(std::vector<call_spec> &calls) {
  const std::string op = "block_forward";
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
  calls.push_back({op, "both", both, ""});
  calls.push_back({op, "self_attention_alone", own, ""});
  const arguments given = with(
      without(both, {"attn2_context", "attn2_k_weight", "attn2_k_bias", "attn2_v_weight", "attn2_v_bias"}),
      {{"attn2_key_value", tensor({2, 4, 16})}});
  calls.push_back({op, "key_value", given, ""});
  calls.push_back(
      {op, "key_value_copy", with(given, {{"attn2_key_value", tensor({2, 4, 16}, layout::transposed)}}), ""});
  calls.push_back({op, "quantized",
                   with(own, {{"ff_in_weight", tensor_spec{{10, 6}, layout::transposed, DS_INT8}},
                              {"ff_in_scale", tensor({10, 3}, layout::transposed)},
                              {"ff_out_weight", tensor_spec{{6, 5}, layout::contiguous, DS_INT8}},
                              {"ff_out_scale", tensor({6})}}),
                   ""});
  calls.push_back({op, "copies",
                   with(both, {{"hidden_states", tensor({2, 3, 6}, layout::transposed)},
                               {"attn2_context", tensor({2, 4, 7}, layout::transposed)},
                               {"attn1_q_weight", tensor({8, 6}, layout::transposed)},
                               {"attn1_mask", tensor({2, 1, 3}, layout::every_second)},
                               {"attn2_v_bias", tensor({8}, layout::every_second)},
                               {"ff_out_weight", tensor({6, 5}, layout::transposed)}}),
                   ""});
}

// Made once: every operator is called often on the way.
template <typename Add>
std::vector<call_spec> for_every_operator(const Add &add) {
  std::vector<call_spec> made;
  for (const std::string &text : schemas()) {
    const schema of = parse_schema(text), others = without_parameter(of, replacing);
    if (kernel("CPU", of.op) == nullptr) continue;
    add(of, "", made);
    if (others.parameters.size() != of.parameters.size()) add(others, "without_" + replacing + "_", made);
  }
  return made;
}

} // namespace

const std::vector<call_spec> &calls() {
  static const std::vector<call_spec> all = [] {
    std::vector<call_spec> made = for_every_operator(add_right_calls);
    add_block_forward(made);
    return made;
  }();
  return all;
}

const std::vector<call_spec> &changed_calls() {
  static const std::vector<call_spec> all = for_every_operator(add_changed_calls);
  return all;
}

} // namespace boxed
