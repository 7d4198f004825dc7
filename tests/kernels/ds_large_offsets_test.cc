// Elements more than 2^31 apart: address space that is reserved, of which a few pages are used.
#include "cpu_kernel_test.h"
#include <sys/mman.h>

namespace ds_tests {
namespace {

constexpr int64_t apart = (int64_t{1} << 31) + 4096; // elements between rows, or columns

class sparse_memory {
public:
  explicit sparse_memory(size_t bytes)
      : bytes_(bytes), start_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~sparse_memory() {
    if (reserved()) munmap(start_, bytes_);
  }
  sparse_memory(const sparse_memory &) = delete;
  sparse_memory &operator=(const sparse_memory &) = delete;

  bool reserved() const { return start_ != MAP_FAILED; }
  char *start() const { return static_cast<char *>(start_); }

private:
  size_t bytes_;
  void *start_;
};

class LargeOffsets : public cpu_kernel_test {
protected:
  // A view of 3 × 3 elements with either stride large, holding row · 10 + col where it is an input.
  ds_rows view_in(const sparse_memory &memory, bool columns_apart, bool fill) const {
    ds_rows view = ds_rows_contiguous(memory.start(), 3, columns_apart ? 1 : apart);
    view.col_stride = columns_apart ? apart : 1;
    for (int64_t row = 0; row < 3 && fill; row++)
      for (int64_t col = 0; col < 3; col++)
        write_element(dtype, element(view, row, col), static_cast<double>(row * 10 + col));
    return view;
  }

  char *element(const ds_rows &view, int64_t row, int64_t col) const {
    return static_cast<char *>(view.data) +
           (row * view.strides[0] + col * view.col_stride) * format_of(dtype).bytes;
  }

  size_t bytes_needed() const { return static_cast<size_t>((2 * apart + 4096) * format_of(dtype).bytes); }
};

INSTANTIATE_TEST_SUITE_P(Cpu, LargeOffsets, each_capability_and_dtype(), name_of_case);

TEST_P(LargeOffsets, BiasAddReachesThem) {
  const sparse_memory input(bytes_needed()), output(bytes_needed());
  if (!input.reserved() || !output.reserved()) GTEST_SKIP() << "the address space is limited";
  for (const bool columns_apart : {false, true}) {
    ds_bias_add_params params = {};
    params.dtype = dtype;
    params.rows = params.cols = 3;
    params.input = view_in(input, columns_apart, true);
    params.output = view_in(output, columns_apart, false);
    ASSERT_EQ(kernels->bias_add(&params, nullptr), DS_OK);
    for (int64_t row = 0; row < 3; row++)
      for (int64_t col = 0; col < 3; col++)
        EXPECT_EQ(read_element(dtype, element(params.output, row, col)), row * 10 + col);
  }
}

TEST_P(LargeOffsets, LayerNormReachesThem) {
  const sparse_memory input(bytes_needed());
  if (!input.reserved()) GTEST_SKIP() << "the address space is limited";
  for (const bool columns_apart : {false, true}) {
    matrix output(dtype, 3, 3, layout::contiguous);
    ds_layer_norm_params params = {};
    params.dtype = dtype;
    params.rows = params.cols = 3;
    params.input = view_in(input, columns_apart, true);
    params.output = output.data();
    ASSERT_EQ(kernels->layer_norm(&params, nullptr), DS_OK);
    for (int64_t row = 0; row < 3; row++)
      for (int64_t col = 0; col < 3; col++)
        EXPECT_NEAR(output.at(row, col), static_cast<double>(col - 1) * std::sqrt(1.5), 0.02);
  }
}

TEST_P(LargeOffsets, GatedActivationReachesThem) {
  const sparse_memory input(bytes_needed());
  if (!input.reserved()) GTEST_SKIP() << "the address space is limited";
  for (const bool columns_apart : {false, true}) {
    matrix output(dtype, 3, 1, layout::contiguous);
    ds_gated_activation_params params = {};
    params.dtype = dtype;
    params.rows = 3;
    params.cols = 1;
    params.activation_type = DS_ACTIVATION_GATED_GELU;
    params.input = view_in(input, columns_apart, true);
    params.output = output.data();
    ASSERT_EQ(kernels->gated_activation(&params, nullptr), DS_OK);
    EXPECT_NEAR(output.at(2, 0), 20.0 * 21.0, 2.0);
  }
}

} // namespace
} // namespace ds_tests
