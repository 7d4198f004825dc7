// The few ATen operators that the plugin calls, in plain loops.
#include "fake_torch.h"
#include <cmath>

namespace fake_torch {

namespace {

AtenTensorHandle new_like(const tensor &like, const std::vector<int64_t> &sizes,
                          const std::vector<int64_t> &strides) {
  AtenTensorHandle made = new_tensor(sizes, strides, dtype_of(like.dtype), like.device_type);
  at(made).device_index = like.device_index;
  return made;
}

// A view of the same memory.
AtenTensorHandle new_view(const tensor &of, const std::vector<int64_t> &sizes,
                          const std::vector<int64_t> &strides) {
  AtenTensorHandle made = new_tensor({0}, {1}, dtype_of(of.dtype), of.device_type);
  tensor &view = at(made);
  view = of;
  view.sizes = sizes;
  view.strides = strides;
  return made;
}

} // namespace

// torch keeps the order of dense strides; here every input of the tests but a transposed one is contiguous.
AtenTensorHandle empty_like(const tensor &input, bool contiguous) {
  return new_like(input, input.sizes, contiguous ? contiguous_strides(input.sizes) : input.strides);
}

AtenTensorHandle contiguous(const tensor &input) {
  if (input.strides == contiguous_strides(input.sizes)) return new_view(input, input.sizes, input.strides);
  AtenTensorHandle made = new_like(input, input.sizes, contiguous_strides(input.sizes));
  if (input.device_type != meta) release(copy(at(made), input));
  return made;
}

// Both of the same sizes.
AtenTensorHandle copy(const tensor &destination, const tensor &source) {
  std::vector<int64_t> index(source.sizes.size());
  if (numel(source) != 0) {
    do write(destination, index, read(source, index));
    while (next(source.sizes, index));
  }
  return new_view(destination, destination.sizes, destination.strides);
}

AtenTensorHandle glu_shape(const tensor &input) {
  std::vector<int64_t> sizes = input.sizes;
  if (sizes.empty() || sizes.back() % 2 != 0) throw std::runtime_error("glu needs an even last dimension");
  sizes.back() /= 2;
  return new_like(input, sizes, contiguous_strides(sizes));
}

AtenTensorHandle linear_shape(const tensor &input, const tensor &weight) {
  std::vector<int64_t> sizes = input.sizes;
  if (sizes.empty() || weight.sizes.size() != 2 || weight.sizes[1] != sizes.back())
    throw std::runtime_error("linear needs a matrix with as many columns as its input");
  sizes.back() = weight.sizes[0];
  return new_like(input, sizes, contiguous_strides(sizes));
}

AtenTensorHandle transpose(const tensor &input, int64_t first, int64_t second) {
  std::vector<int64_t> sizes = input.sizes, strides = input.strides;
  std::swap(sizes.at(static_cast<size_t>(first)), sizes.at(static_cast<size_t>(second)));
  std::swap(strides.at(static_cast<size_t>(first)), strides.at(static_cast<size_t>(second)));
  return new_view(input, sizes, strides);
}

// Sizes [batch, heads, tokens, head_size]; the mask's are these of the scores, or 1.
AtenTensorHandle scaled_dot_product_attention(const tensor &query, const tensor &key, const tensor &value,
                                              const tensor *mask) {
  const int64_t keys = key.sizes[2], head_size = query.sizes[3];
  AtenTensorHandle made = new_like(query, query.sizes, contiguous_strides(query.sizes));
  std::vector<int64_t> rows = {query.sizes[0], query.sizes[1], query.sizes[2]}, row(3);
  do {
    std::vector<double> weights(static_cast<size_t>(keys));
    double sum = 0.0;
    for (int64_t k = 0; k < keys; k++) {
      double score = 0.0;
      for (int64_t i = 0; i < head_size; i++)
        score += read(query, {row[0], row[1], row[2], i}) * read(key, {row[0], row[1], k, i});
      score /= std::sqrt(static_cast<double>(head_size));
      if (mask != nullptr) {
        std::vector<int64_t> place = {row[0], row[1], row[2], k};
        for (size_t i = 0; i < 4; i++)
          if (mask->sizes[i] == 1) place[i] = 0;
        score += read(*mask, place);
      }
      sum += weights[static_cast<size_t>(k)] = std::exp(score);
    }
    for (int64_t i = 0; i < head_size; i++) {
      double total = 0.0;
      for (int64_t k = 0; k < keys; k++)
        total += weights[static_cast<size_t>(k)] * read(value, {row[0], row[1], k, i});
      write(at(made), {row[0], row[1], row[2], i}, total / sum);
    }
  } while (next(rows, row));
  return made;
}

void addmm(const tensor &out, const tensor *self, const tensor &mat1, const tensor &mat2, double beta,
           double alpha) {
  for (int64_t row = 0; row < out.sizes[0]; row++)
    for (int64_t col = 0; col < out.sizes[1]; col++) {
      double sum = 0.0;
      for (int64_t i = 0; i < mat1.sizes[1]; i++) sum += read(mat1, {row, i}) * read(mat2, {i, col});
      write(out, {row, col}, alpha * sum + (self == nullptr ? 0.0 : beta * read(*self, {col})));
    }
}

} // namespace fake_torch
