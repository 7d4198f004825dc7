// More than 2^31 elements in one tensor, where there is room for them. DS_DIFFUSERS_SKIP_LARGE=1 leaves these
// out.
#include "cuda_cases.h"
#include "linear_case.h"
#include <cstdlib>

namespace ds_tests {
namespace {

constexpr int64_t beyond = (int64_t{1} << 31) + (int64_t{1} << 23); // elements

// Rows of bfloat16 in device memory: the same number everywhere, but for some rows that are watched.
class large_matrix {
public:
  large_matrix(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), buffer_(static_cast<size_t>(rows * cols * 2)) {
    // Bytes 0x3f: the number 0.74609375.
    check_cuda(cudaMemset(buffer_.data(), 0x3f, buffer_.bytes()));
  }

  char *row(int64_t index) const { return buffer_.data() + index * cols_ * 2; }
  ds_rows view() const { return ds_rows_contiguous(buffer_.data(), rows_, cols_); }
  void *data() const { return buffer_.data(); }

  void write_row(int64_t index, const std::vector<double> &values) const {
    std::vector<unsigned char> bytes(static_cast<size_t>(cols_) * 2);
    for (size_t col = 0; col < values.size(); col++) write_element(DS_BFLOAT16, &bytes[2 * col], values[col]);
    check_cuda(cudaMemcpy(row(index), bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
  }

  std::vector<double> read_row(int64_t index) const {
    std::vector<unsigned char> bytes(static_cast<size_t>(cols_) * 2);
    check_cuda(cudaMemcpy(bytes.data(), row(index), bytes.size(), cudaMemcpyDeviceToHost));
    std::vector<double> values(static_cast<size_t>(cols_));
    for (size_t col = 0; col < values.size(); col++) values[col] = read_element(DS_BFLOAT16, &bytes[2 * col]);
    return values;
  }

private:
  int64_t rows_, cols_;
  device_buffer buffer_;
};

// The first, the last, and those around the element 2^31.
std::vector<int64_t> watched_rows(int64_t rows, int64_t cols) {
  const int64_t middle = (int64_t{1} << 31) / cols;
  return {0, middle - 1, middle, middle + 1, rows - 1};
}

std::vector<double> ramp(int64_t cols, int64_t row) {
  std::vector<double> values(static_cast<size_t>(cols));
  for (int64_t col = 0; col < cols; col++)
    values[static_cast<size_t>(col)] = 0.125 * static_cast<double>((col * 5 + row) % 23 - 11);
  return values;
}

class LargeCuda : public cuda_test {
protected:
  // Skips where it cannot be had; a little stays free for the rest of the machine.
  bool has_room_for(int64_t elements) {
    size_t free_bytes = 0, total_bytes = 0;
    check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes));
    const char *skip = std::getenv("DS_DIFFUSERS_SKIP_LARGE");
    return (skip == nullptr || std::string(skip) != "1") &&
           free_bytes > static_cast<size_t>(elements) * 2 + (size_t{1} << 30);
  }
};

#define DS_NEED_ROOM_FOR(elements)                                                                           \
  if (!has_room_for(elements)) GTEST_SKIP() << "large tests are left out, or need more free device memory"

TEST_F(LargeCuda, LayerNorm) {
  DS_NEED_ROOM_FOR(2 * beyond);
  for (const int64_t cols : {1280, 1281}) {
    const int64_t rows = beyond / cols + 1;
    const large_matrix input(rows, cols), output(rows, cols);
    for (const int64_t row : watched_rows(rows, cols)) input.write_row(row, ramp(cols, row));
    ds_layer_norm_params params = {};
    params.dtype = DS_BFLOAT16;
    params.rows = rows;
    params.cols = cols;
    params.epsilon = 1e-5f;
    params.input = input.view();
    params.output = output.data();
    ASSERT_EQ(module->layer_norm(&params, stream), DS_OK) << module->error_message();
    wait();
    for (const int64_t row : watched_rows(rows, cols)) {
      const std::vector<double> from = ramp(cols, row), to = output.read_row(row);
      double mean = 0, variance = 0;
      for (const double value : from) mean += value / static_cast<double>(cols);
      for (const double value : from) variance += (value - mean) * (value - mean) / static_cast<double>(cols);
      for (size_t col = 0; col < from.size(); col++)
        ASSERT_NEAR(to[col], (from[col] - mean) / std::sqrt(variance + 1e-5), 0.01) << row << " " << col;
    }
    for (const double value : output.read_row(watched_rows(rows, cols)[1] - 1)) ASSERT_NEAR(value, 0.0, 0.01);
  }
}

TEST_F(LargeCuda, GatedActivation) {
  DS_NEED_ROOM_FOR(beyond + beyond / 2);
  for (const int64_t cols : {640, 641}) {
    const int64_t rows = beyond / (2 * cols) + 1;
    const large_matrix input(rows, 2 * cols), output(rows, cols);
    for (const int64_t row : watched_rows(rows, 2 * cols)) input.write_row(row, ramp(2 * cols, row));
    ds_gated_activation_params params = {};
    params.dtype = DS_BFLOAT16;
    params.rows = rows;
    params.cols = cols;
    params.input = input.view();
    params.activation_type = DS_ACTIVATION_GATED_SILU;
    params.output = output.data();
    ASSERT_EQ(module->gated_activation(&params, stream), DS_OK) << module->error_message();
    wait();
    for (const int64_t row : watched_rows(rows, 2 * cols)) {
      const std::vector<double> from = ramp(2 * cols, row), to = output.read_row(row);
      for (size_t col = 0; col < to.size(); col++)
        ASSERT_NEAR(to[col], from[col] * silu_reference(from[col + to.size()]), 0.02) << row << " " << col;
    }
  }
}

TEST_F(LargeCuda, BiasAddInEveryDirection) {
  DS_NEED_ROOM_FOR(2 * beyond);
  // The memory is [channels][pixels]; seen as pixels × channels, or as it is.
  const int64_t pixels = 1 << 20, channels = beyond / pixels + 1;
  const large_matrix input(channels, pixels), output(channels, pixels);
  for (const int64_t row : watched_rows(channels, pixels)) input.write_row(row, ramp(pixels, row));
  for (const int turned : {0, 1, 2}) {
    check_cuda(cudaMemset(output.data(), 0xa5, static_cast<size_t>(channels * pixels * 2)));
    check_cuda(cudaDeviceSynchronize()); // the stream of the tests does not wait for the default one
    ds_bias_add_params params = {};
    params.dtype = DS_BFLOAT16;
    params.rows = turned == 0 ? channels : pixels;
    params.cols = turned == 0 ? pixels : channels;
    params.input = input.view();
    if (turned != 0) {
      params.input = ds_rows_contiguous(input.data(), pixels, 1);
      params.input.col_stride = pixels;
    }
    params.output = params.input;
    if (turned == 2) params.output = ds_rows_contiguous(output.data(), pixels, channels);
    params.output.data = output.data();
    ASSERT_EQ(module->bias_add(&params, stream), DS_OK) << module->error_message();
    wait();
    if (turned < 2)
      for (const int64_t row : watched_rows(channels, pixels))
        ASSERT_EQ(output.read_row(row), input.read_row(row));
    else
      for (const int64_t pixel : {int64_t{0}, pixels / 2, pixels - 1}) {
        std::vector<unsigned char> bytes(static_cast<size_t>(channels) * 2);
        check_cuda(cudaMemcpy(bytes.data(), static_cast<char *>(output.data()) + pixel * channels * 2,
                              bytes.size(), cudaMemcpyDeviceToHost));
        for (const int64_t channel : watched_rows(channels, pixels))
          ASSERT_EQ(read_element(DS_BFLOAT16, &bytes[static_cast<size_t>(channel) * 2]),
                    round_to(DS_BFLOAT16, ramp(pixels, channel)[static_cast<size_t>(pixel)]));
      }
  }
}

// More tiles beside each other than a grid takes.
TEST_F(LargeCuda, BiasAddOfMillionsOfColumns) {
  constexpr int64_t cols = (int64_t{1} << 22) + 65536;
  DS_NEED_ROOM_FOR(4 * cols);
  std::vector<uint16_t> from(2 * cols), to(2 * cols);
  for (size_t i = 0; i < from.size(); i++) from[i] = static_cast<uint16_t>(0x3f00 + i * 7 % 251);
  const device_buffer input(2 * from.size()), output(2 * to.size());
  check_cuda(cudaMemcpy(input.data(), from.data(), input.bytes(), cudaMemcpyHostToDevice));
  ds_bias_add_params params = {};
  params.dtype = DS_BFLOAT16;
  params.rows = 2;
  params.cols = cols;
  params.input = ds_rows_contiguous(input.data(), 2, cols);
  params.output = ds_rows_contiguous(output.data(), 2, 1);
  params.output.col_stride = 2;
  ASSERT_EQ(module->bias_add(&params, stream), DS_OK) << module->error_message();
  wait();
  check_cuda(cudaMemcpy(to.data(), output.data(), output.bytes(), cudaMemcpyDeviceToHost));
  for (size_t col = 0; col < cols; col++)
    for (const size_t row : {size_t{0}, size_t{1}}) ASSERT_EQ(to[2 * col + row], from[row * cols + col]);
}

TEST_F(LargeCuda, Linear) {
  constexpr int64_t in = 1280, out = 24;
  const int64_t rows = beyond / in + 1;
  DS_NEED_ROOM_FOR(rows * (in + out));
  const large_matrix input(rows, in), output(rows, out), weight(out, in);
  const device_buffer workspace(module->linear_workspace_bytes);
  for (const int64_t row : watched_rows(rows, in)) input.write_row(row, ramp(in, row));
  for (int64_t row = 0; row < out; row++) weight.write_row(row, ramp(in, 3 * row));
  ds_linear_params params = {};
  params.dtype = DS_BFLOAT16;
  params.rows = rows;
  params.in_features = in;
  params.out_features = out;
  params.input = input.data();
  params.weight = weight.data();
  params.output = output.data();
  params.input_row_stride = params.weight_row_stride = in;
  params.output_row_stride = out;
  ASSERT_EQ(multiply(module, params, workspace, stream), DS_OK) << module->error_message();
  wait();
  for (const int64_t row : watched_rows(rows, in)) {
    const std::vector<double> from = ramp(in, row), to = output.read_row(row);
    for (int64_t feature = 0; feature < out; feature++) {
      const std::vector<double> weights = ramp(in, 3 * feature);
      double sum = 0;
      for (size_t i = 0; i < from.size(); i++) sum += from[i] * weights[i];
      ASSERT_NEAR(to[static_cast<size_t>(feature)], sum, 0.01 + 0.005 * std::abs(sum))
          << row << " " << feature;
    }
  }
}

} // namespace
} // namespace ds_tests
