// BasicTransformerBlock in float64, one batch entry after the other, written from its definition: as a whole,
// and each of its parts alone.
#ifndef DS_TESTS_BLOCK_REFERENCE_H
#define DS_TESTS_BLOCK_REFERENCE_H

#include "block_case.h"
#include <numeric>

namespace ds_tests {

using grid = std::vector<std::vector<double>>; // [row][column]

class block_reference {
public:
  explicit block_reference(block_case &arguments) : block_(arguments) {}

  // [tokens][channels] of one batch entry.
  grid operator()(int64_t batch) {
    grid x = read("hidden_states", batch);
    x = plus(x, attention("attn1", norm("norm1", x), batch));
    if (block_.has("attn2_q_weight")) x = plus(x, attention("attn2", norm("norm2", x), batch));
    return plus(x, feed_forward(norm("norm3", x)));
  }

  grid read(const std::string &name, int64_t batch) {
    tensor &t = block_.at(name);
    grid result(static_cast<size_t>(t.sizes[1]), std::vector<double>(static_cast<size_t>(t.sizes[2])));
    for (size_t row = 0; row < result.size(); row++)
      for (size_t col = 0; col < result[row].size(); col++)
        result[row][col] = t.at({batch, static_cast<int64_t>(row), static_cast<int64_t>(col)});
    return result;
  }

  static grid plus(grid a, const grid &b) {
    for (size_t row = 0; row < a.size(); row++)
      for (size_t col = 0; col < a[row].size(); col++) a[row][col] += b[row][col];
    return a;
  }

  grid norm(const std::string &name, grid x) {
    for (std::vector<double> &row : x) {
      const auto count = static_cast<double>(row.size());
      double mean = 0, variance = 0;
      for (const double value : row) mean += value / count;
      for (const double value : row) variance += (value - mean) * (value - mean) / count;
      for (size_t col = 0; col < row.size(); col++)
        row[col] =
            (row[col] - mean) / std::sqrt(variance + block_.epsilon) * vector_at(name + "_weight", col, 1.0) +
            vector_at(name + "_bias", col, 0.0);
    }
    return x;
  }

  grid linear(const std::string &name, const grid &x) {
    const auto features = static_cast<size_t>(block_.at(name + "_weight").sizes[0]);
    grid result(x.size(), std::vector<double>(features));
    for (size_t out = 0; out < features; out++) {
      const std::vector<double> weights = weights_of(name, static_cast<int64_t>(out));
      const double bias = vector_at(name + "_bias", out, 0.0);
      for (size_t row = 0; row < x.size(); row++)
        result[row][out] = std::inner_product(weights.begin(), weights.end(), x[row].begin(), bias);
    }
    return result;
  }

  // The heads' outputs side by side, before the output projection.
  grid attend(const std::string &name, const grid &q, const grid &k, const grid &v, int64_t batch) {
    const auto size = static_cast<size_t>(block_.options.head_size);
    grid together(q.size(), std::vector<double>(q[0].size()));
    for (size_t head = 0; head < static_cast<size_t>(block_.options.heads); head++)
      for (size_t query = 0; query < q.size(); query++) {
        std::vector<double> weights(k.size());
        double total = 0;
        for (size_t key = 0; key < k.size(); key++) {
          double score = 0;
          for (size_t i = head * size; i < (head + 1) * size; i++) score += q[query][i] * k[key][i];
          score = score / std::sqrt(static_cast<double>(size)) +
                  mask_at(name + "_mask", batch, static_cast<int64_t>(head), static_cast<int64_t>(query),
                          static_cast<int64_t>(key));
          total += weights[key] = std::exp(score);
        }
        for (size_t key = 0; key < k.size(); key++)
          for (size_t i = head * size; i < (head + 1) * size; i++)
            together[query][i] += weights[key] / total * v[key][i];
      }
    return together;
  }

  // `hidden` with the bias of ff_in.
  grid gate(const grid &hidden) {
    const auto inner = static_cast<size_t>(block_.options.ff_inner);
    grid gated(hidden.size(), std::vector<double>(inner));
    for (size_t row = 0; row < hidden.size(); row++)
      for (size_t col = 0; col < inner; col++) {
        const double gate = hidden[row][inner + col];
        const double activated = block_.activation_type == 4 ? gate / (1 + std::exp(-gate))
                                                             : gate * 0.5 * std::erfc(-gate / std::sqrt(2.0));
        gated[row][col] = hidden[row][col] * activated;
      }
    return gated;
  }

private:
  // A row of the weight, or what it stands for where it is quantised.
  std::vector<double> weights_of(const std::string &name, int64_t out) {
    const tensor &weight = block_.at(name + "_weight");
    const tensor *scale = block_.has(name + "_scale") ? &block_.at(name + "_scale") : nullptr;
    std::vector<double> weights(static_cast<size_t>(weight.sizes[1]));
    for (index_list index = {out, 0}; index[1] < weight.sizes[1]; index[1]++)
      weights[static_cast<size_t>(index[1])] = weight.at(index);
    if (scale == nullptr) return weights;
    const bool whole_rows = scale->sizes.size() == 1;
    const size_t groups = whole_rows ? 1 : static_cast<size_t>(scale->sizes[1]),
                 size = weights.size() / groups;
    for (size_t group = 0; group < groups; group++) {
      const double factor =
          scale->at(whole_rows ? index_list{out} : index_list{out, static_cast<int64_t>(group)});
      for (size_t in = group * size; in < (group + 1) * size; in++) weights[in] *= factor;
    }
    return weights;
  }

  double vector_at(const std::string &name, size_t index, double otherwise) {
    return block_.has(name) ? block_.at(name).at({static_cast<int64_t>(index)}) : otherwise;
  }

  double mask_at(const std::string &name, int64_t batch, int64_t head, int64_t query, int64_t key) {
    if (!block_.has(name)) return 0.0;
    tensor &mask = block_.at(name);
    index_list index = {batch, head, query, key};
    if (mask.sizes.size() == 3) index.erase(index.begin() + 1);
    for (size_t i = 0; i < index.size(); i++)
      if (mask.sizes[i] == 1) index[i] = 0;
    return mask.at(index);
  }

  grid attention(const std::string &name, const grid &x, int64_t batch) {
    const grid source = block_.has(name + "_context") ? read(name + "_context", batch) : x;
    const grid q = linear(name + "_q", x);
    const auto [k, v] = block_.has(name + "_key_value")
                            ? key_value(name, batch)
                            : std::pair{linear(name + "_k", source), linear(name + "_v", source)};
    return linear(name + "_out", attend(name, q, k, v, batch));
  }

  // The halves of the rows that are given.
  std::pair<grid, grid> key_value(const std::string &name, int64_t batch) {
    grid keys = read(name + "_key_value", batch), values = keys;
    for (size_t row = 0; row < keys.size(); row++) {
      const auto middle = static_cast<std::ptrdiff_t>(keys[row].size() / 2);
      keys[row].erase(keys[row].begin() + middle, keys[row].end());
      values[row].erase(values[row].begin(), values[row].begin() + middle);
    }
    return {keys, values};
  }

  grid feed_forward(const grid &x) { return linear("ff_out", gate(linear("ff_in", x))); }

  block_case &block_;
};

} // namespace ds_tests

#endif
