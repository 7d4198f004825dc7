// Tensors for the operators' tests: memory of their own, any strides, and a description that a test can
// spoil.
#ifndef DS_TESTS_TENSOR_H
#define DS_TESTS_TENSOR_H

#include "ds_tensor.h"
#include "float_format.h"
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <vector>

namespace ds_tests {

using index_list = std::vector<int64_t>;

inline index_list contiguous_strides(const index_list &sizes) {
  index_list strides(sizes.size());
  int64_t next = 1;
  for (size_t i = sizes.size(); i-- > 0; next *= std::max<int64_t>(sizes[i], 1)) strides[i] = next;
  return strides;
}

// Calls visit(index) for every element of a tensor of `sizes`, the last dimension fastest.
inline void for_each_index(const index_list &sizes, const std::function<void(const index_list &)> &visit) {
  index_list index(sizes.size(), 0);
  for (const int64_t size : sizes)
    if (size == 0) return;
  while (true) {
    visit(index);
    size_t i = sizes.size();
    while (i > 0 && ++index[i - 1] == sizes[i - 1]) index[--i] = 0;
    if (i == 0) return;
  }
}

class tensor {
public:
  // What the operator is told. A test may change it; the memory stays as it was made.
  bool given = true;
  ds_dtype dtype;
  ds_device_type device_type = DS_CPU;
  int32_t device_index = 0;
  index_list sizes;
  index_list strides;
  void *data;

  // Filled with guard bytes: an output.
  tensor(ds_dtype type, const index_list &shape, const index_list &steps)
      : dtype(type), sizes(shape), strides(steps), made_dtype_(type), made_sizes_(shape),
        made_strides_(steps) {
    int64_t last = 1; // one past the last element
    for (size_t i = 0; i < shape.size(); i++) last += std::max<int64_t>(shape[i] - 1, 0) * steps[i];
    memory_.assign(static_cast<size_t>(last * format_of(type).bytes) + 2 * guard, filling);
    data = memory_.data() + guard;
  }

  tensor(ds_dtype type, const index_list &shape) : tensor(type, shape, contiguous_strides(shape)) {}

  // Filled with random numbers: an input.
  tensor(ds_dtype type, const index_list &shape, const index_list &steps, unsigned seed, double centre = 0.0,
         double width = 1.0)
      : tensor(type, shape, steps) {
    std::mt19937 engine(seed);
    for_each_index(shape, [&](const index_list &index) {
      write(index, centre + width * (static_cast<double>(engine()) / 4294967296.0 * 2.0 - 1.0));
    });
  }

  tensor(ds_dtype type, const index_list &shape, unsigned seed, double centre = 0.0, double width = 1.0)
      : tensor(type, shape, contiguous_strides(shape), seed, centre, width) {}

  // Descriptions point into the object.
  tensor(const tensor &) = delete;
  tensor &operator=(const tensor &) = delete;

  double at(const index_list &index) const { return read_element(made_dtype_, address(index)); }
  void write(const index_list &index, double value) { write_element(made_dtype_, address(index), value); }

  // The description, or NULL where the argument is not given. Valid until the next call.
  const ds_tensor *get() {
    if (!given) return nullptr;
    description_ = {
        data,         dtype,         device_type, device_index, static_cast<int32_t>(sizes.size()),
        sizes.data(), strides.data()};
    return &description_;
  }

  void expect_untouched() const {
    for (size_t i = 0; i < memory_.size(); i++)
      ASSERT_EQ(memory_[i], filling) << "byte " << i << " was written";
  }

  void expect_untouched_around() const {
    std::vector<bool> ours(memory_.size(), false);
    for_each_index(made_sizes_, [&](const index_list &index) {
      for (int byte = 0; byte < format_of(made_dtype_).bytes; byte++)
        ours[static_cast<size_t>(address(index) + byte - memory_.data())] = true;
    });
    for (size_t i = 0; i < memory_.size(); i++) {
      if (!ours[i]) {
        ASSERT_EQ(memory_[i], filling) << "byte " << i << " was written";
      }
    }
  }

private:
  static constexpr unsigned char filling = 0xa5;
  static constexpr size_t guard = 256;

  unsigned char *address(const index_list &index) const {
    int64_t offset = 0;
    for (size_t i = 0; i < index.size(); i++) offset += index[i] * made_strides_[i];
    return const_cast<unsigned char *>(memory_.data()) + guard + offset * format_of(made_dtype_).bytes;
  }

  ds_dtype made_dtype_;
  index_list made_sizes_, made_strides_;
  std::vector<unsigned char> memory_;
  ds_tensor description_ = {};
};

} // namespace ds_tests

#endif
