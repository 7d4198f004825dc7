// The services of block_forward in plain C++: slow, exact, and suspicious of the block.
#ifndef DS_TESTS_PLAIN_SERVICES_H
#define DS_TESTS_PLAIN_SERVICES_H

#include "ds_services.h"
#include "float_format.h"
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

namespace ds_tests {

class plain_services {
public:
  explicit plain_services(bool adds_residual, bool gates = false) {
    table = {this,
             allocate,
             linear,
             adds_residual ? 1 : 0,
             adds_residual ? 0 : 1,
             1 << 20,
             attention,
             gates ? gated_linear_serves : nullptr,
             gates ? gated_linear : nullptr,
             quantized_linear_serves,
             quantized_linear,
             adds_residual ? run_at_once : nullptr};
  }
  plain_services(const plain_services &) = delete;
  plain_services &operator=(const plain_services &) = delete;

  ds_services table;
  int fail_at = 0; // the number of the call, of any service, that fails; 0: none
  int calls = 0;
  int allocations = 0;
  std::vector<ds_linear_params> linears;
  std::vector<ds_attention_params> attentions;
  bool serves_gated_linear = true;
  std::vector<ds_gated_linear_params> gated_linears;
  bool serves_quantized_linear = false;
  std::vector<ds_quantized_linear_params> quantized_linears;
  size_t scratch_bytes = 0;

private:
  struct release {
    void operator()(void *memory) const { std::free(memory); }
  };
  using owned = std::unique_ptr<void, release>;

  // Memory of exactly `bytes`, so that a sanitizer sees a step past it; full of NaN, so that a result shows
  // whether anything was read before it was written.
  static owned memory_of(size_t bytes) {
    void *memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) return nullptr;
    std::memset(memory, 0xff, bytes);
    return owned(memory);
  }

  ds_status count() {
    if (++calls == fail_at) return ds_error(DS_E_SERVICE, "service call %d fails", calls);
    return DS_OK;
  }

  static ds_status run_at_once(void *host, const void *, size_t, ds_status (*work)(void *), void *argument) {
    DS_CHECK(static_cast<plain_services *>(host)->count());
    return work(argument);
  }

  static ds_status allocate(void *host, size_t bytes, void **memory) {
    auto *self = static_cast<plain_services *>(host);
    DS_CHECK(self->count());
    self->allocations++;
    self->scratch_bytes = bytes;
    self->scratch_ = memory_of(bytes);
    if (bytes == 0 || self->scratch_ == nullptr)
      return ds_error(DS_E_MEMORY, "%zu bytes were asked for", bytes);
    *memory = self->scratch_.get();
    return DS_OK;
  }

  static std::vector<double> read_row(ds_dtype dtype, const void *data, int64_t offset, int64_t count) {
    const auto bytes = static_cast<int64_t>(ds_dtype_bytes(dtype));
    std::vector<double> row(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; i++)
      row[static_cast<size_t>(i)] =
          read_element(dtype, static_cast<const char *>(data) + (offset + i) * bytes);
    return row;
  }

  static std::vector<std::vector<double>> read_rows(ds_dtype dtype, const void *data, int64_t rows,
                                                    int64_t row_stride, int64_t cols) {
    std::vector<std::vector<double>> all;
    for (int64_t row = 0; row < rows; row++) all.push_back(read_row(dtype, data, row * row_stride, cols));
    return all;
  }

  static std::vector<std::vector<double>> weights_of(const ds_linear_params &p) {
    if (p.scale == nullptr)
      return read_rows(p.dtype, p.weight, p.out_features, p.weight_row_stride, p.in_features);
    std::vector<std::vector<double>> weights(static_cast<size_t>(p.out_features));
    for (int64_t out = 0; out < p.out_features; out++)
      for (int64_t in = 0; in < p.in_features; in++)
        weights[static_cast<size_t>(out)].push_back(
            static_cast<const int8_t *>(p.weight)[out * p.weight_row_stride + in] *
            static_cast<double>(p.scale[out * p.groups + in / (p.in_features / p.groups)]));
    return weights;
  }

  static ds_status linear(void *host, const ds_linear_params *p) {
    auto *self = static_cast<plain_services *>(host);
    DS_CHECK(self->count());
    self->linears.push_back(*p);
    if (p->residual != nullptr && !self->table.linear_adds_residual)
      return ds_error(DS_E_VALUE, "a residual was given to a service that adds none");
    const auto bytes = static_cast<int64_t>(ds_dtype_bytes(p->dtype));
    const auto read = [&](const void *data, int64_t offset) {
      return read_element(p->dtype, static_cast<const char *>(data) + offset * bytes);
    };
    if (p->workspace_bytes != 0)
      std::memset(p->workspace, 0xff, p->workspace_bytes); // it is the product's own
    if (p->scale != nullptr && !self->table.linear_takes_quantized)
      return ds_error(DS_E_VALUE, "a quantised weight was given to a service that takes none");
    const auto weights = weights_of(*p);
    for (int64_t row = 0; row < p->rows; row++) {
      const std::vector<double> input =
          read_row(p->dtype, p->input, row * p->input_row_stride, p->in_features);
      for (int64_t out = 0; out < p->out_features; out++) {
        double sum = p->bias == nullptr ? 0.0 : read(p->bias, out);
        if (p->residual != nullptr) sum += read(p->residual, row * p->residual_row_stride + out);
        sum = std::inner_product(input.begin(), input.end(), weights[static_cast<size_t>(out)].begin(), sum);
        write_element(p->dtype, static_cast<char *>(p->output) + (row * p->output_row_stride + out) * bytes,
                      sum);
      }
    }
    return DS_OK;
  }

  static int gated_linear_serves(void *host, const ds_gated_linear_params *) {
    return static_cast<plain_services *>(host)->serves_gated_linear;
  }

  static double activated(ds_activation_type type, double gate) {
    return type == DS_ACTIVATION_GATED_SILU ? gate / (1 + std::exp(-gate))
                                            : gate * 0.5 * std::erfc(-gate / std::sqrt(2.0));
  }

  static ds_status gated_linear(void *host, const ds_gated_linear_params *p) {
    auto *self = static_cast<plain_services *>(host);
    DS_CHECK(self->count());
    self->gated_linears.push_back(*p);
    const auto bytes = static_cast<int64_t>(ds_dtype_bytes(p->dtype));
    const auto read = [&](const void *data, int64_t offset) {
      return read_element(p->dtype, static_cast<const char *>(data) + offset * bytes);
    };
    const auto weights = read_rows(p->dtype, p->weight, 2 * p->cols, p->weight_row_stride, p->in_features);
    for (int64_t row = 0; row < p->rows; row++) {
      const std::vector<double> input =
          read_row(p->dtype, p->input, row * p->input_row_stride, p->in_features);
      const auto product = [&](int64_t col) {
        return std::inner_product(input.begin(), input.end(), weights[static_cast<size_t>(col)].begin(),
                                  p->bias == nullptr ? 0.0 : read(p->bias, col));
      };
      for (int64_t col = 0; col < p->cols; col++)
        write_element(p->dtype, static_cast<char *>(p->output) + (row * p->output_row_stride + col) * bytes,
                      product(col) * activated(p->activation_type, product(p->cols + col)));
    }
    return DS_OK;
  }

  static int quantized_linear_serves(void *host, const ds_quantized_linear_params *) {
    return static_cast<plain_services *>(host)->serves_quantized_linear;
  }

  static ds_status quantized_linear(void *host, const ds_quantized_linear_params *p) {
    auto *self = static_cast<plain_services *>(host);
    DS_CHECK(self->count());
    self->quantized_linears.push_back(*p);
    const auto bytes = static_cast<int64_t>(ds_dtype_bytes(p->dtype));
    const auto read = [&](const void *data, int64_t offset) {
      return data == nullptr ? 0.0 : read_element(p->dtype, static_cast<const char *>(data) + offset * bytes);
    };
    const auto product = [&](int64_t row, int64_t col) {
      double sum = 0;
      for (int64_t in = 0; in < p->in_features; in++)
        sum += read(p->input, row * p->input_row_stride + in) * p->weight[col * p->weight_row_stride + in];
      return sum * static_cast<double>(p->scale[col]) + read(p->bias, col);
    };
    for (int64_t row = 0; row < p->rows; row++)
      for (int64_t col = 0; col < p->cols; col++) {
        double result = product(row, col) + read(p->residual, row * p->residual_row_stride + col);
        if (ds_quantized_linear_is_gated(p)) result *= activated(p->gate, product(row, p->cols + col));
        write_element(p->dtype, static_cast<char *>(p->output) + (row * p->output_row_stride + col) * bytes,
                      result);
      }
    return DS_OK;
  }

  static ds_status attention(void *host, const ds_attention_params *p, const void **result) {
    auto *self = static_cast<plain_services *>(host);
    DS_CHECK(self->count());
    self->attentions.push_back(*p);
    const auto bytes = static_cast<int64_t>(ds_dtype_bytes(p->dtype));
    const int64_t elements = p->batch * p->query_tokens * p->heads * p->head_size;
    self->attended_ = memory_of(static_cast<size_t>(elements * bytes)); // the last call's result ends here
    for (int64_t batch = 0; batch < p->batch; batch++)
      for (int64_t head = 0; head < p->heads; head++)
        for (int64_t token = 0; token < p->query_tokens; token++) {
          const std::vector<double> sum = attend(*p, batch, head, token);
          const int64_t start = ((batch * p->query_tokens + token) * p->heads + head) * p->head_size;
          for (int64_t i = 0; i < p->head_size; i++)
            write_element(p->dtype, static_cast<char *>(self->attended_.get()) + (start + i) * bytes,
                          sum[static_cast<size_t>(i)]);
        }
    *result = self->attended_.get();
    return DS_OK;
  }

  static double read_at(const ds_attention_params &p, const void *data, const int64_t *strides, int64_t batch,
                        int64_t token, int64_t head, int64_t i) {
    const int64_t offset = batch * strides[0] + token * strides[1] + head * strides[2] + i;
    return read_element(p.dtype, static_cast<const char *>(data) +
                                     offset * static_cast<int64_t>(ds_dtype_bytes(p.dtype)));
  }

  static double mask_at(const ds_attention_params &p, const int64_t (&index)[4]) {
    if (p.mask == nullptr) return 0.0;
    int64_t offset = 0;
    for (int i = 0; i < 4; i++) offset += (p.mask_sizes[i] == 1 ? 0 : index[i]) * p.mask_strides[i];
    return read_element(p.dtype, static_cast<const char *>(p.mask) +
                                     offset * static_cast<int64_t>(ds_dtype_bytes(p.dtype)));
  }

  static std::vector<double> attend(const ds_attention_params &p, int64_t batch, int64_t head,
                                    int64_t token) {
    std::vector<double> weights(static_cast<size_t>(p.key_tokens));
    double total = 0;
    for (int64_t key = 0; key < p.key_tokens; key++) {
      double score = 0;
      for (int64_t i = 0; i < p.head_size; i++)
        score += read_at(p, p.query, p.query_strides, batch, token, head, i) *
                 read_at(p, p.key, p.key_strides, batch, key, head, i);
      score = score / std::sqrt(static_cast<double>(p.head_size)) + mask_at(p, {batch, head, token, key});
      total += weights[static_cast<size_t>(key)] = std::exp(score);
    }
    std::vector<double> sum(static_cast<size_t>(p.head_size), 0.0);
    for (int64_t key = 0; key < p.key_tokens; key++)
      for (int64_t i = 0; i < p.head_size; i++)
        sum[static_cast<size_t>(i)] += weights[static_cast<size_t>(key)] / total *
                                       read_at(p, p.value, p.value_strides, batch, key, head, i);
    return sum;
  }

  owned scratch_, attended_;
};

} // namespace ds_tests

#endif
