// The arguments of one block_forward call, by the names that the operator gives them.
#ifndef DS_TESTS_BLOCK_CASE_H
#define DS_TESTS_BLOCK_CASE_H

#include "ds_block.h"
#include "tensor.h"
#include <map>
#include <string>

namespace ds_tests {

// Which projections' weights (and biases) lie one behind the other in memory.
enum class adjacency { none, key_value, all, weights_but_not_biases, all_but_the_query_bias };

struct attention_options {
  bool present = true;
  int64_t context_tokens = -1; // -1: no context
  int64_t context_features = 7;
  bool biases = false;
  adjacency neighbours = adjacency::none;
  index_list mask_sizes = {};    // none
  int64_t key_value_tokens = -1; // of keys and values that are given; -1: they are projected
  int64_t key_value_row_gap = 0; // elements between rows of them
};

struct block_options {
  ds_dtype dtype = DS_FLOAT32;
  int64_t batch = 2;
  int64_t tokens = 5;
  int64_t channels = 12;
  int64_t heads = 3;
  int64_t head_size = 4;
  int64_t ff_inner = 10;
  int64_t ff_in_groups = 0; // of each row of ff_in's weight, quantised; 0: it is not
  int64_t ff_out_groups = 0;
  attention_options attn1 = {};
  attention_options attn2 = {};
  bool norms = true;
  bool output_biases = true;
  int64_t activation_type = 3;
  index_list hidden_strides = {}; // none: contiguous
};

class block_case {
public:
  explicit block_case(const block_options &chosen)
      : options(chosen), epsilon(1e-5), activation_type(chosen.activation_type), heads(chosen.heads),
        output(chosen.dtype, {chosen.batch, chosen.tokens, chosen.channels}) {
    const index_list sizes = {options.batch, options.tokens, options.channels};
    tensors_["hidden_states"] = std::make_unique<tensor>(
        options.dtype, sizes,
        options.hidden_strides.empty() ? contiguous_strides(sizes) : options.hidden_strides, next_seed_++);
    for (const std::string name : {"norm1", "norm2", "norm3"})
      if (options.norms && (name != "norm2" || options.attn2.present)) {
        add(name + "_weight", {options.channels}, 1.0, 0.5);
        add(name + "_bias", {options.channels}, 0.0, 0.5);
      }
    add_attention("attn1", options.attn1);
    if (options.attn2.present) add_attention("attn2", options.attn2);
    add_feed_forward("ff_in", 2 * options.ff_inner, options.channels, options.ff_in_groups);
    add_feed_forward("ff_out", options.channels, options.ff_inner, options.ff_out_groups);
    if (options.output_biases) {
      add("ff_in_bias", {2 * options.ff_inner}, 0.0, 0.5);
      add("ff_out_bias", {options.channels}, 0.0, 0.5);
    }
  }

  ds_status call(const ds_context *context, const ds_services *services) {
    const ds_block_arguments arguments = {
        get("hidden_states"), get("norm1_weight"), get("norm1_bias"),  attention("attn1"),
        get("norm2_weight"),  get("norm2_bias"),   attention("attn2"), get("norm3_weight"),
        get("norm3_bias"),    get("ff_in_weight"), get("ff_in_scale"), get("ff_in_bias"),
        get("ff_out_weight"), get("ff_out_scale"), get("ff_out_bias"), epsilon,
        activation_type};
    return ds_block_forward(context, services, &arguments, output.get());
  }

  bool has(const std::string &name) const { return tensors_.count(name) != 0; }
  tensor &at(const std::string &name) { return *tensors_.at(name); }

  // Gives a copy of the description of another tensor, which must outlive the call.
  void lend(const std::string &name, const tensor &other) {
    tensors_[name] = std::make_unique<tensor>(other.dtype, index_list(other.sizes));
    at(name).strides = other.strides;
    at(name).data = other.data;
  }

  // Every tensor argument's name.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto &[name, owned] : tensors_) all.push_back(name);
    return all;
  }

  const block_options options;
  double epsilon;
  int64_t activation_type;
  int64_t heads;
  tensor output;

private:
  const ds_tensor *get(const std::string &name) { return has(name) ? at(name).get() : nullptr; }

  ds_attention_arguments attention(const std::string &prefix) {
    return {get(prefix + "_context"),    get(prefix + "_mask"),     get(prefix + "_key_value"),
            get(prefix + "_q_weight"),   get(prefix + "_q_bias"),   get(prefix + "_k_weight"),
            get(prefix + "_k_bias"),     get(prefix + "_v_weight"), get(prefix + "_v_bias"),
            get(prefix + "_out_weight"), get(prefix + "_out_bias"), heads};
  }

  void add(const std::string &name, const index_list &sizes, double centre, double width) {
    tensors_[name] = std::make_unique<tensor>(options.dtype, sizes, next_seed_++, centre, width);
  }

  // Of a size that keeps products about as large as what goes in.
  void add_weight(const std::string &name, int64_t out_features, int64_t in_features) {
    add(name, {out_features, in_features}, 0.0, 1.5 / std::sqrt(static_cast<double>(in_features)));
  }

  // Scales of one group have a dimension for the groups in half of the cases.
  void add_feed_forward(const std::string &prefix, int64_t out_features, int64_t in_features,
                        int64_t groups) {
    if (groups == 0) return add_weight(prefix + "_weight", out_features, in_features);
    const index_list sizes = {out_features, in_features};
    tensors_[prefix + "_weight"] = std::make_unique<tensor>(DS_INT8, sizes, next_seed_++, -0.5, 127.5);
    const bool vector = groups == 1 && out_features % 2 == 0;
    const double scale = 1.5 / std::sqrt(static_cast<double>(in_features)) / 128;
    tensors_[prefix + "_scale"] = std::make_unique<tensor>(
        DS_FLOAT32, vector ? index_list{out_features} : index_list{out_features, groups}, next_seed_++, scale,
        scale / 2);
  }

  void add_attention(const std::string &prefix, const attention_options &attention) {
    const int64_t inner = options.heads * options.head_size;
    const bool with_context = attention.context_tokens >= 0;
    const int64_t features = with_context ? attention.context_features : options.channels;
    if (with_context)
      add(prefix + "_context", {options.batch, attention.context_tokens, attention.context_features}, 0.0,
          1.0);
    const bool with_key_value = attention.key_value_tokens >= 0;
    if (with_key_value) add_key_value(prefix, attention);
    if (!attention.mask_sizes.empty()) add(prefix + "_mask", attention.mask_sizes, 0.0, 3.0);
    add_weight(prefix + "_q_weight", inner, options.channels);
    if (!with_key_value) {
      add_weight(prefix + "_k_weight", inner, features);
      add_weight(prefix + "_v_weight", inner, features);
    }
    add_weight(prefix + "_out_weight", options.channels, inner);
    if (options.output_biases) add(prefix + "_out_bias", {options.channels}, 0.0, 0.5);
    if (attention.biases) add(prefix + "_q_bias", {inner}, 0.0, 0.5);
    if (with_key_value) return;
    if (attention.biases)
      for (const std::string name : {"_k_bias", "_v_bias"}) add(prefix + name, {inner}, 0.0, 0.5);
    join(prefix, "_weight", attention.neighbours);
    if (attention.biases && attention.neighbours != adjacency::weights_but_not_biases)
      join(prefix, "_bias",
           attention.neighbours == adjacency::all_but_the_query_bias ? adjacency::key_value
                                                                     : attention.neighbours);
  }

  void add_key_value(const std::string &prefix, const attention_options &attention) {
    const int64_t cols = 2 * options.heads * options.head_size, row = cols + attention.key_value_row_gap;
    const index_list sizes = {options.batch, attention.key_value_tokens, cols};
    tensors_[prefix + "_key_value"] = std::make_unique<tensor>(
        options.dtype, sizes, index_list{attention.key_value_tokens * row, row, 1}, next_seed_++, 0.0, 1.5);
  }

  // Moves what the call sees of the projections' weights or biases into one memory, in the order q, k, v.
  void join(const std::string &prefix, const std::string &what, adjacency neighbours) {
    if (neighbours == adjacency::none) return;
    std::vector<std::string> together;
    if (neighbours != adjacency::key_value) together.push_back(prefix + "_q" + what);
    together.push_back(prefix + "_k" + what);
    together.push_back(prefix + "_v" + what);
    int64_t elements = 0;
    for (const std::string &name : together) elements += ds_tensor_numel(get(name));
    const auto bytes = static_cast<int64_t>(ds_dtype_bytes(options.dtype));
    std::vector<char> &memory = joined_.emplace_back(static_cast<size_t>(elements * bytes));
    char *next = memory.data();
    for (const std::string &name : together) {
      const auto size = static_cast<size_t>(ds_tensor_numel(get(name)) * bytes);
      std::memcpy(next, at(name).data, size);
      at(name).data = next;
      next += size;
    }
  }

  unsigned next_seed_ = 1;
  std::map<std::string, std::unique_ptr<tensor>> tensors_;
  std::vector<std::vector<char>> joined_;
};

} // namespace ds_tests

#endif
