// The module's attention on a GPU against float64.
#include "cpu_kernel_test.h"
#include "cuda_kernel_test.h"
#include <cmath>

namespace ds_tests {
namespace {

struct attention_options {
  int64_t batch;
  int64_t heads;
  int64_t query_tokens;
  int64_t key_tokens;
  int64_t head_size;
  bool fused = false; // query, key and value are parts of one matrix's rows; as many keys as queries
  double width = 2.0; // of the queries' numbers
};

struct attention_case {
  attention_case(ds_dtype type, const attention_options &chosen)
      : dtype(type), options(chosen), width(chosen.heads * chosen.head_size),
        query(type, chosen.batch * chosen.query_tokens, chosen.fused ? 3 * width : width, layout::contiguous,
              random_values(1, 0.0, chosen.width)),
        context(type, chosen.fused ? 0 : chosen.batch * chosen.key_tokens, 2 * width, layout::contiguous,
                random_values(2)),
        output(type, chosen.batch * chosen.query_tokens, width, layout::contiguous),
        copies({&query, &context, &output}) {
    params = {};
    params.dtype = dtype;
    params.batch = options.batch;
    params.heads = options.heads;
    params.query_tokens = options.query_tokens;
    params.key_tokens = options.key_tokens;
    params.head_size = options.head_size;
    params.query = part_of(query, 0);
    params.key = part_of(keys_and_values(), first_key());
    params.value = part_of(keys_and_values(), first_key() + width);
    set_strides(params.query_strides, query, options.query_tokens);
    set_strides(params.key_strides, keys_and_values(), options.key_tokens);
    set_strides(params.value_strides, keys_and_values(), options.key_tokens);
    params.output = copies.at(output.data());
  }

  // Compares every `step`th row of the output; the last one too.
  void expect_result(int64_t step) const {
    for (int64_t row = 0; row < output.rows(); row += step) expect_row(row);
    expect_row(output.rows() - 1);
    output.expect_untouched_around();
  }

  ds_dtype dtype;
  attention_options options;
  int64_t width;
  matrix query, context, output;
  device_copies copies;
  ds_attention_params params;

private:
  const matrix &keys_and_values() const { return options.fused ? query : context; }
  int64_t first_key() const { return options.fused ? width : 0; }

  const char *part_of(const matrix &of, int64_t col) const {
    return static_cast<const char *>(copies.at(of.data())) + static_cast<size_t>(col) * ds_dtype_bytes(dtype);
  }

  void set_strides(int64_t *strides, const matrix &of, int64_t tokens) const {
    strides[0] = tokens * of.cols();
    strides[1] = of.cols();
    strides[2] = options.head_size;
  }

  void expect_row(int64_t row) const {
    for (int64_t head = 0; head < options.heads && !testing::Test::HasFatalFailure(); head++)
      expect_head(row, head);
  }

  // exp(score - the largest) of every key.
  std::vector<double> probabilities(int64_t row, int64_t head) const {
    const int64_t first = row / options.query_tokens * options.key_tokens;
    std::vector<double> scores(static_cast<size_t>(options.key_tokens));
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t key = 0; key < options.key_tokens; key++) {
      double sum = 0;
      for (int64_t i = head * options.head_size; i < (head + 1) * options.head_size; i++)
        sum += query.at(row, i) * keys_and_values().at(first + key, first_key() + i);
      scores[static_cast<size_t>(key)] = sum / std::sqrt(static_cast<double>(options.head_size));
      largest = std::max(largest, scores[static_cast<size_t>(key)]);
    }
    for (double &score : scores) score = std::exp(score - largest);
    return scores;
  }

  void expect_head(int64_t row, int64_t head) const {
    const int64_t first = row / options.query_tokens * options.key_tokens;
    const std::vector<double> weights = probabilities(row, head);
    double total = 0;
    for (const double weight : weights) total += weight;
    for (int64_t i = head * options.head_size; i < (head + 1) * options.head_size; i++) {
      double sum = 0, magnitude = 0;
      for (int64_t key = 0; key < options.key_tokens; key++) {
        const double value = keys_and_values().at(first + key, first_key() + width + i);
        sum += weights[static_cast<size_t>(key)] * value / total;
        magnitude += weights[static_cast<size_t>(key)] * std::abs(value) / total;
      }
      // Probabilities are rounded to the storage type, in float16 to 2^-24 at least, and come from scores and
      // exponentials in float32.
      const double rounding = unit_at(dtype, 1.0) / 2 + 1e-4;
      const double arithmetic =
          rounding * magnitude + static_cast<double>(options.key_tokens) * 0x1p-24 / total;
      expect_near(dtype, output.at(row, i), sum, arithmetic, [&] {
        return std::to_string(options.query_tokens) + "x" + std::to_string(options.key_tokens) + " of " +
               std::to_string(options.head_size) + " (" + std::to_string(row) + ", " + std::to_string(i) +
               ")";
      });
    }
  }
};

class AttentionCuda : public cuda_dtype_test {
protected:
  void SetUp() override {
    cuda_dtype_test::SetUp();
    if (module == nullptr) return;
    int device = 0, major = 0, minor = 0;
    check_cuda(cudaGetDevice(&device));
    check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    if (major != 9 || minor != 0 || std::string(module->architectures).find("90a") == std::string::npos)
      GTEST_SKIP() << "the device or the build has no attention of the module's own";
  }

  void run_and_check(const attention_options &options, int64_t step = 1) {
    attention_case test(dtype, options);
    ASSERT_TRUE(module->attention_serves(&test.params))
        << options.query_tokens << " x " << options.key_tokens << " of " << options.head_size;
    ASSERT_EQ(module->attention(&test.params, stream), DS_OK) << module->error_message();
    wait();
    test.copies.fetch();
    test.expect_result(step);
  }
};

constexpr int64_t head_sizes[] = {40, 64, 72, 80, 160};

INSTANTIATE_TEST_SUITE_P(Gpu, AttentionCuda, testing::Values(DS_FLOAT16, DS_BFLOAT16), name_of_dtype);

TEST_P(AttentionCuda, MatchesReferenceForAnyTokens) {
  for (const int64_t head_size : head_sizes)
    for (const int64_t queries : {1, 63, 64, 65, 127, 129, 200})
      for (const int64_t keys : {1, 15, 16, 77, 80, 81, 127, 128, 129, 257})
        run_and_check(
            {.batch = 1, .heads = 2, .query_tokens = queries, .key_tokens = keys, .head_size = head_size},
            17);
}

TEST_P(AttentionCuda, MatchesReferenceForPartsOfARow) {
  for (const int64_t head_size : head_sizes)
    for (const int64_t tokens : {64, 144, 256})
      run_and_check({.batch = 2,
                     .heads = 3,
                     .query_tokens = tokens,
                     .key_tokens = tokens,
                     .head_size = head_size,
                     .fused = true},
                    13);
}

// A thread block has several of them, one behind the other.
TEST_P(AttentionCuda, MatchesReferenceForManyTiles) {
  for (const int64_t head_size : head_sizes) {
    run_and_check({.batch = 2, .heads = 5, .query_tokens = 3952, .key_tokens = 77, .head_size = head_size},
                  997);
    run_and_check({.batch = 2,
                   .heads = 5,
                   .query_tokens = 2060,
                   .key_tokens = 2060,
                   .head_size = head_size,
                   .fused = true},
                  997);
  }
}

// Each query has one key that outweighs all others, so that maxima move from block to block.
TEST_P(AttentionCuda, KeepsItsAccuracyWithLargeScores) {
  for (const int64_t head_size : head_sizes)
    for (const int64_t keys : {77, 500})
      run_and_check({.batch = 1,
                     .heads = 2,
                     .query_tokens = 100,
                     .key_tokens = keys,
                     .head_size = head_size,
                     .width = 16.0});
}

} // namespace
} // namespace ds_tests
