// Each part of block_forward alone: what it made of what it was really given, so that a wrong block names its
// wrong part. What goes into and comes out of the services shows every part but the residual stream.
#include "block_reference.h"
#include "plain_services.h"

namespace ds_tests {
namespace {

grid read_matrix(ds_dtype dtype, const void *data, int64_t rows, int64_t cols, int64_t row_stride) {
  const auto bytes = static_cast<int64_t>(ds_dtype_bytes(dtype));
  grid result(static_cast<size_t>(rows), std::vector<double>(static_cast<size_t>(cols)));
  for (int64_t row = 0; row < rows; row++)
    for (int64_t col = 0; col < cols; col++)
      result[static_cast<size_t>(row)][static_cast<size_t>(col)] =
          read_element(dtype, static_cast<const char *>(data) + (row * row_stride + col) * bytes);
  return result;
}

// [rows, several · cols] as several matrices side by side.
std::vector<grid> split(const grid &whole, size_t parts) {
  std::vector<grid> result(parts);
  for (const std::vector<double> &row : whole)
    for (size_t part = 0; part < parts; part++) {
      const auto cols = static_cast<std::ptrdiff_t>(row.size() / parts);
      const auto first = row.begin() + static_cast<std::ptrdiff_t>(part) * cols;
      result[part].emplace_back(first, first + cols);
    }
  return result;
}

// Plain services that keep what each call was given and gave: its buffers are used again later.
class watched_services {
public:
  struct linear_call {
    grid input, output;
  };

  explicit watched_services(bool adds_residual) : plain_(adds_residual), table(plain_.table) {
    table.host = this;
    table.allocate = [](void *host, size_t bytes, void **memory) {
      ds_services &plain = static_cast<watched_services *>(host)->plain_.table;
      return plain.allocate(plain.host, bytes, memory);
    };
    table.linear = [](void *host, const ds_linear_params *p) {
      auto *self = static_cast<watched_services *>(host);
      DS_CHECK(self->plain_.table.linear(self->plain_.table.host, p));
      self->linears.push_back(
          {read_matrix(p->dtype, p->input, p->rows, p->in_features, p->input_row_stride),
           read_matrix(p->dtype, p->output, p->rows, p->out_features, p->output_row_stride)});
      return DS_OK;
    };
    table.attention = [](void *host, const ds_attention_params *p, const void **result) {
      auto *self = static_cast<watched_services *>(host);
      DS_CHECK(self->plain_.table.attention(self->plain_.table.host, p, result));
      const int64_t inner = p->heads * p->head_size;
      self->attentions.push_back(read_matrix(p->dtype, *result, p->batch * p->query_tokens, inner, inner));
      return DS_OK;
    };
  }

private:
  plain_services plain_;

public:
  ds_services table;
  std::vector<linear_call> linears;
  std::vector<grid> attentions;
};

// The block of one batch entry, followed part by part.
class followed_block {
public:
  followed_block(const block_options &options, bool adds_residual)
      : block_(options), reference_(block_), services_(adds_residual), adds_residual_(adds_residual) {
    EXPECT_EQ(block_.call(nullptr, &services_.table), DS_OK) << ds_error_message();
  }

  void follow() {
    grid stream = reference_.read("hidden_states", 0);
    grid normalised = reference_.norm("norm1", stream);
    for (const std::string attention : {"attn1", "attn2"}) {
      const bool first = attention == "attn1";
      const grid heads = follow_attention(
          attention, normalised, first ? block_.options.attn1.neighbours : block_.options.attn2.neighbours);
      stream = follow_projection(attention + "_out", heads, stream);
      normalised = reference_.norm(first ? "norm2" : "norm3", stream);
    }
    follow_feed_forward(normalised, stream);
  }

private:
  void expect_near(const std::string &node, const grid &actual, const grid &expected) {
    ASSERT_EQ(actual.size(), expected.size()) << node;
    ASSERT_EQ(actual[0].size(), expected[0].size()) << node;
    // Float64 throughout, rounded once or, where a residual sum is normalised, twice.
    const double bound = unit_at(block_.options.dtype, 4.0) * (block_.options.dtype == DS_FLOAT32 ? 4 : 2);
    for (size_t row = 0; row < actual.size(); row++)
      for (size_t col = 0; col < actual[row].size(); col++)
        ASSERT_NEAR(actual[row][col], expected[row][col], bound) << node << " at " << row << ", " << col;
  }

  const watched_services::linear_call &next_linear() { return services_.linears.at(linear_++); }

  // The outputs of q, k and v; `parts` of them are one product's.
  std::vector<grid> follow_product(const std::string &attention, const std::vector<std::string> &parts,
                                   const grid &input, const std::string &input_name) {
    const watched_services::linear_call &call = next_linear();
    expect_near(input_name, call.input, input);
    std::vector<grid> outputs = split(call.output, parts.size());
    for (size_t i = 0; i < parts.size(); i++)
      expect_near(attention + "_" + parts[i], outputs[i],
                  reference_.linear(attention + "_" + parts[i], call.input));
    return outputs;
  }

  grid follow_attention(const std::string &attention, const grid &normalised, adjacency neighbours) {
    const bool has_context = block_.has(attention + "_context");
    const grid source = has_context ? reference_.read(attention + "_context", 0) : normalised;
    const std::string norm = "the norm before " + attention;
    const std::string source_name = has_context ? attention + "_context" : norm;
    std::vector<grid> qkv;
    const auto product = [&](const std::vector<std::string> &parts, const grid &input,
                             const std::string &input_name) {
      for (grid &output : follow_product(attention, parts, input, input_name))
        qkv.push_back(std::move(output));
    };
    if (block_.has(attention + "_key_value")) {
      product({"q"}, normalised, norm);
      for (grid &part : split(reference_.read(attention + "_key_value", 0), 2))
        qkv.push_back(std::move(part));
    } else if (neighbours == adjacency::all && !has_context) {
      product({"q", "k", "v"}, normalised, norm);
    } else {
      product({"q"}, normalised, norm);
      if (neighbours == adjacency::none) {
        product({"k"}, source, source_name);
        product({"v"}, source, source_name);
      } else {
        product({"k", "v"}, source, source_name);
      }
    }
    const grid &heads = services_.attentions.at(attention_++);
    expect_near("the heads of " + attention, heads, reference_.attend(attention, qkv[0], qkv[1], qkv[2], 0));
    return heads;
  }

  // The residual stream behind an output projection.
  grid follow_projection(const std::string &name, const grid &input, const grid &stream) {
    const watched_services::linear_call &call = next_linear();
    expect_near("the input of " + name, call.input, input);
    const grid sum = block_reference::plus(reference_.linear(name, call.input), stream);
    if (!adds_residual_) return sum; // the service gave the bare product
    expect_near(name + " and the residual", call.output, sum);
    return call.output;
  }

  void follow_feed_forward(const grid &normalised, const grid &stream) {
    const watched_services::linear_call &in = next_linear(), &out = services_.linears.at(linear_);
    expect_near("the norm before ff_in", in.input, normalised);
    expect_near("the gated activation", out.input, reference_.gate(reference_.linear("ff_in", in.input)));
    const grid result = follow_projection("ff_out", out.input, stream);
    const block_options &options = block_.options;
    expect_near(
        "the output",
        read_matrix(options.dtype, block_.output.data, options.tokens, options.channels, options.channels),
        result);
  }

  block_case block_;
  block_reference reference_;
  watched_services services_;
  const bool adds_residual_;
  size_t linear_ = 0, attention_ = 0;
};

class BlockNodes : public testing::TestWithParam<std::tuple<bool, ds_dtype>> {};

INSTANTIATE_TEST_SUITE_P(Plain, BlockNodes,
                         testing::Combine(testing::Bool(),
                                          testing::Values(DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16)));

TEST_P(BlockNodes, EachMatchesItsReference) {
  const auto [adds_residual, dtype] = GetParam();
  for (const adjacency neighbours : {adjacency::none, adjacency::key_value, adjacency::all})
    for (const int64_t context_tokens : {-1, 3})
      for (const int64_t activation_type : {3, 4}) {
        SCOPED_TRACE("neighbours " + std::to_string(static_cast<int>(neighbours)) + ", context " +
                     std::to_string(context_tokens));
        // Heads of 8: only products whose rows are whole vectors are grouped.
        followed_block({.dtype = dtype,
                        .batch = 1,
                        .heads = 2,
                        .head_size = 8,
                        .attn1 = {.biases = true, .neighbours = neighbours},
                        .attn2 = {.context_tokens = context_tokens, .biases = true, .neighbours = neighbours},
                        .activation_type = activation_type},
                       adds_residual)
            .follow();
      }
}

TEST_P(BlockNodes, KeysAndValuesAreTakenAsTheyAreGiven) {
  const auto [adds_residual, dtype] = GetParam();
  for (const int64_t head_size : {5, 8})
    followed_block({.dtype = dtype,
                    .batch = 1,
                    .heads = 2,
                    .head_size = head_size,
                    .attn2 = {.biases = true, .key_value_tokens = 3}},
                   adds_residual)
        .follow();
}

} // namespace
} // namespace ds_tests
