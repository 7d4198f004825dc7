// A call of every kernel in places of the test's choice, and a slow one to put ahead of them.
#ifndef DS_TESTS_EARLY_LAUNCH_CASE_H
#define DS_TESTS_EARLY_LAUNCH_CASE_H

#include "cpu_kernel_test.h"
#include "cuda_kernel_test.h"
#include <algorithm>
#include <functional>
#include <memory>
#include <random>

namespace ds_tests {

// Device memory that holds the same numbers at the start of each run.
class device_image {
public:
  device_image(ds_dtype dtype, int64_t elements)
      : element_bytes_(ds_dtype_bytes(dtype)), initial_(static_cast<size_t>(elements) * element_bytes_),
        buffer_(initial_.size()) {
    const size_t period_bytes = std::min(8191 * element_bytes_, initial_.size());
    std::mt19937 random(1);
    std::uniform_real_distribution<double> numbers(-1.0, 1.0);
    for (size_t i = 0; i < period_bytes; i += element_bytes_)
      write_element(dtype, &initial_[i], numbers(random));
    for (size_t i = period_bytes; i < initial_.size(); i++) initial_[i] = initial_[i - period_bytes];
  }

  // The next `elements` of it, aligned to 256 bytes.
  char *take(int64_t elements) {
    char *const taken = buffer_.data() + taken_;
    taken_ += (static_cast<size_t>(elements) * element_bytes_ + 255) / 256 * 256;
    if (taken_ > buffer_.bytes()) throw std::runtime_error("the image is too small");
    return taken;
  }

  void restore() const {
    check_cuda(cudaMemcpy(buffer_.data(), initial_.data(), initial_.size(), cudaMemcpyHostToDevice));
    check_cuda(cudaDeviceSynchronize());
  }

  std::vector<unsigned char> contents() const {
    std::vector<unsigned char> bytes(initial_.size());
    check_cuda(cudaMemcpy(bytes.data(), buffer_.data(), bytes.size(), cudaMemcpyDeviceToHost));
    return bytes;
  }

private:
  size_t element_bytes_;
  std::vector<unsigned char> initial_;
  device_buffer buffer_;
  size_t taken_ = 0;
};

// What a call uses.
struct places {
  const char *from;    // at least 96 × 64 elements
  const char *weights; // at least 96 × 64 elements
  char *to;            // as many elements as the call writes
  char *sum;           // the same; layer_norm's second result
};

using placed_call = std::function<ds_status(const places &)>;

// Calls of the module in one stream. One that a special kernel would be for does nothing where that does not
// serve.
class kernel_calls {
public:
  static constexpr int64_t rows = 96, cols = 64;
  static constexpr int64_t most_written = 1600 * 1280;

  kernel_calls(const ds_cuda_module *module, ds_dtype dtype, cudaStream_t stream)
      : module_(module), dtype_(dtype), stream_(stream), workspace_(module->linear_workspace_bytes) {}

  enum class norm_operands { all, weights, gamma };

  // The residual is the input once more.
  placed_call layer_norm(norm_operands operands, int64_t of_rows, int64_t of_cols, int64_t row_stride,
                         int64_t col_stride = 1) {
    return [=, this](const places &at) {
      ds_layer_norm_params params = {};
      params.dtype = dtype_;
      params.rows = of_rows;
      params.cols = of_cols;
      params.epsilon = 1e-5f;
      params.input = strided(at.from, of_rows, row_stride, col_stride);
      params.gamma = at.weights;
      if (operands != norm_operands::gamma) params.beta = element(at.weights, 1280);
      if (operands == norm_operands::all) {
        params.bias = element(at.weights, 2560);
        params.residual = params.input;
        params.sum = at.sum;
      }
      params.output = at.to;
      return module_->layer_norm(&params, stream_);
    };
  }

  // Turned: with rows closer than columns.
  placed_call bias_add(int64_t of_rows, int64_t of_cols, bool inputs_turned, bool output_turned) {
    return [=, this](const places &at) {
      const auto view = [&](const char *data, bool turned) {
        return turned ? strided(data, of_rows, 1, of_rows) : strided(data, of_rows, of_cols);
      };
      ds_bias_add_params params = {};
      params.dtype = dtype_;
      params.rows = of_rows;
      params.cols = of_cols;
      params.input = params.other = view(at.from, inputs_turned);
      params.bias = at.weights;
      params.other_bias = element(at.weights, 1280);
      params.output = view(at.to, output_turned);
      return module_->bias_add(&params, stream_);
    };
  }

  placed_call gated_activation(int64_t of_rows, int64_t of_cols, bool turned) {
    return [=, this](const places &at) {
      ds_gated_activation_params params = {};
      params.dtype = dtype_;
      params.rows = of_rows;
      params.cols = of_cols;
      params.input = turned ? strided(at.from, of_rows, 1, of_rows) : strided(at.from, of_rows, 2 * of_cols);
      params.bias = at.weights;
      params.activation_type = DS_ACTIVATION_GATED_GELU;
      params.output = at.to;
      return module_->gated_activation(&params, stream_);
    };
  }

  // The bytes and the scale are whatever the operands' bits make.
  placed_call dequantize(int64_t of_cols, int64_t groups) {
    return [=, this](const places &at) {
      ds_dequantize_params params = {};
      params.dtype = dtype_;
      params.rows = rows;
      params.cols = params.weight_row_stride = of_cols;
      params.weight = reinterpret_cast<const int8_t *>(at.from);
      params.scale = reinterpret_cast<const float *>(at.weights);
      params.groups = groups;
      params.output = at.to;
      return module_->dequantize(&params, stream_);
    };
  }

  // Input rows that overlap are for the kernel that needs no cuBLASLt.
  placed_call linear(int64_t input_row_stride) {
    return [=, this](const places &at) {
      ds_linear_params params = {};
      params.dtype = dtype_;
      params.rows = rows;
      params.in_features = params.out_features = cols;
      params.input = at.from;
      params.input_row_stride = input_row_stride;
      params.weight = at.weights;
      params.weight_row_stride = cols;
      params.output = at.to;
      params.output_row_stride = cols;
      return multiply(module_, params, workspace_, stream_);
    };
  }

  placed_call attention(int64_t key_tokens) {
    return [=, this](const places &at) {
      ds_attention_params params = {};
      params.dtype = dtype_;
      params.batch = params.heads = 1;
      params.query_tokens = rows;
      params.key_tokens = key_tokens;
      params.head_size = cols;
      for (int64_t *strides : {params.query_strides, params.key_strides, params.value_strides}) {
        strides[0] = rows * cols;
        strides[1] = strides[2] = cols;
      }
      params.query = params.key = at.from;
      params.value = at.weights;
      params.output = at.to;
      return module_->attention_serves(&params) != 0 ? module_->attention(&params, stream_) : DS_OK;
    };
  }

  placed_call gated_linear() {
    return [this](const places &at) {
      ds_gated_linear_params params = {};
      params.dtype = dtype_;
      params.rows = rows;
      params.in_features = cols;
      params.cols = cols / 2;
      params.input = at.from;
      params.weight = params.bias = at.weights;
      params.input_row_stride = params.weight_row_stride = cols;
      params.activation_type = DS_ACTIVATION_GATED_GELU;
      params.output = at.to;
      params.output_row_stride = cols / 2;
      return module_->gated_linear_serves(&params) != 0 ? module_->gated_linear(&params, stream_) : DS_OK;
    };
  }

  // The bytes and the scale are whatever the operands' bits make; the residual is the input once more.
  placed_call quantized_linear(int64_t in_features, ds_activation_type gate) {
    return [=, this](const places &at) {
      ds_quantized_linear_params params = {};
      params.dtype = dtype_;
      params.rows = 4;
      params.in_features = params.input_row_stride = in_features;
      params.cols = 4;
      params.input = at.from;
      params.weight = reinterpret_cast<const int8_t *>(at.weights);
      params.weight_row_stride = in_features;
      params.scale = reinterpret_cast<const float *>(at.weights);
      params.bias = at.weights;
      params.gate = gate;
      params.residual = gate == DS_ACTIVATION_UNKNOWN ? at.from : nullptr;
      params.residual_row_stride = in_features;
      params.output = at.to;
      params.output_row_stride = 4;
      return module_->quantized_linear_serves(&params) != 0 ? module_->quantized_linear(&params, stream_)
                                                            : DS_OK;
    };
  }

  struct named_call {
    std::string name;
    placed_call run;
  };

  // Every kernel.
  std::vector<named_call> all() {
    std::vector<named_call> calls = {
        {"layer_norm, few rows", layer_norm(norm_operands::all, 80, cols, cols)},
        {"layer_norm, odd columns", layer_norm(norm_operands::all, 80, 37, cols)},
        {"layer_norm, turned", layer_norm(norm_operands::all, 80, cols, 1, rows)},
        {"bias_add", bias_add(rows, cols, false, false)},
        {"bias_add, odd columns", bias_add(rows, 37, false, false)},
        {"bias_add, all turned", bias_add(rows, cols, true, true)},
        {"bias_add, inputs turned", bias_add(rows, cols, true, false)},
        {"gated_activation", gated_activation(rows, cols / 2, false)},
        {"gated_activation, odd columns", gated_activation(rows, 17, false)},
        {"gated_activation, turned", gated_activation(rows, cols / 2, true)},
        {"dequantize", dequantize(cols, 1)},
        {"dequantize, odd columns", dequantize(37, 1)},
        {"dequantize, groups", dequantize(cols, 4)},
        {"linear", linear(cols)},
        {"linear, overlapping rows", linear(0)},
        {"attention", attention(rows)},
        {"attention, few keys", attention(77)},
        {"gated_linear", gated_linear()},
        {"quantized_linear", quantized_linear(1024, DS_ACTIVATION_UNKNOWN)},
        {"quantized_linear, gated", quantized_linear(64, DS_ACTIVATION_GATED_GELU)},
    };
    // Many rows, all of them the same in memory.
    for (const int64_t of_cols : {160, 320, 640, 1280})
      for (const norm_operands operands : {norm_operands::all, norm_operands::weights, norm_operands::gamma})
        calls.push_back({"layer_norm, " + std::to_string(of_cols) + " columns",
                         layer_norm(operands, most_written / of_cols, of_cols, 0)});
    return calls;
  }

  static constexpr int64_t slow_features = 16384;
  struct slow_operands {
    const char *input;    // [slow_features]
    const char *weight;   // [cols, slow_features]
    const char *bias;     // [cols]
    const char *residual; // [rows, cols]
    char *output;         // [rows, cols]
  };

  // A product on a few multiprocessors for the better part of a millisecond. Reads bias and residual last.
  ds_status slow_product(const slow_operands &at, cudaStream_t on) {
    ds_linear_params params = {};
    params.dtype = dtype_;
    params.rows = rows;
    params.in_features = slow_features;
    params.out_features = cols;
    params.input = at.input;
    params.input_row_stride = 0;
    params.weight = at.weight;
    params.weight_row_stride = slow_features;
    params.bias = at.bias;
    params.residual = at.residual;
    params.output = at.output;
    params.residual_row_stride = params.output_row_stride = cols;
    return multiply(module_, params, workspace_, on);
  }

private:
  const char *element(const char *base, int64_t index) const {
    return base + static_cast<size_t>(index) * ds_dtype_bytes(dtype_);
  }

  static ds_rows strided(const char *data, int64_t of_rows, int64_t row_stride, int64_t col_stride = 1) {
    ds_rows view = ds_rows_contiguous(const_cast<char *>(data), of_rows, row_stride);
    view.col_stride = col_stride;
    return view;
  }

  const ds_cuda_module *module_;
  ds_dtype dtype_;
  cudaStream_t stream_;
  device_buffer workspace_;
};

} // namespace ds_tests

#endif
