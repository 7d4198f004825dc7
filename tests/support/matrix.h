// Operands of the kernels: rows × cols elements in some memory layout, with everything around them watched.
#ifndef DS_TESTS_MATRIX_H
#define DS_TESTS_MATRIX_H

#include "ds_rows.h"
#include "float_format.h"
#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

namespace ds_tests {

enum class layout {
  contiguous,
  second_element, // contiguous, but aligned to an element only
  odd_address,    // contiguous, but aligned to nothing
  padded_rows,    // a slice of the columns of a wider matrix
  blocks,         // a slice of the middle dimension of three: two row dimensions
  spread_columns, // every third column of a wider matrix
  column_major,   // as NCHW memory seen as pixels × channels; two images where the rows are even in number
  repeated_row    // every row is the same memory: for inputs alone
};

inline const std::vector<layout> &layouts_of_outputs() {
  static const std::vector<layout> all = {layout::contiguous,  layout::second_element, layout::odd_address,
                                          layout::padded_rows, layout::blocks,         layout::spread_columns,
                                          layout::column_major};
  return all;
}

inline std::vector<layout> layouts_of_inputs() {
  std::vector<layout> all = layouts_of_outputs();
  all.push_back(layout::repeated_row);
  return all;
}

inline std::string name_of(layout where) {
  static const char *const names[] = {"contiguous", "second_element", "odd_address",  "padded_rows",
                                      "blocks",     "spread_columns", "column_major", "repeated_row"};
  return names[static_cast<int>(where)];
}

// Numbers about a centre; the same sequence in every run.
inline std::function<double(int64_t, int64_t)> random_values(unsigned seed, double centre = 0.0,
                                                             double width = 2.0) {
  auto engine = std::make_shared<std::mt19937>(seed);
  return [engine, centre, width](int64_t, int64_t) {
    return centre + width * (static_cast<double>((*engine)()) / 4294967296.0 * 2.0 - 1.0);
  };
}

inline std::function<double(int64_t, int64_t)> constant_values(double value) {
  return [value](int64_t, int64_t) { return value; };
}

class matrix {
public:
  // An input that holds values(row, col), rounded. Its memory is exactly as long as its last element's end,
  // so that a sanitizer sees a read past it.
  matrix(ds_dtype dtype, int64_t rows, int64_t cols, layout where,
         const std::function<double(int64_t, int64_t)> &values)
      : matrix(dtype, rows, cols, where, 0) {
    for (int64_t row = 0; row < rows; row++)
      for (int64_t col = 0; col < cols; col++) write_element(dtype, element(row, col), values(row, col));
  }

  // An output, with guard zones before and behind it.
  matrix(ds_dtype dtype, int64_t rows, int64_t cols, layout where) : matrix(dtype, rows, cols, where, 256) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  void *data() const { return view_.data; }
  const ds_rows &view() const { return view_; }

  // All of its memory, what lies around the elements included: to copy it to a device and back.
  unsigned char *memory() const { return memory_.get(); }
  size_t memory_bytes() const { return size_; }

  double at(int64_t row, int64_t col) const { return read_element(dtype_, element(row, col)); }

  void write(int64_t row, int64_t col, double value) { write_element(dtype_, element(row, col), value); }

  // The elements' bits, row by row: to compare results exactly.
  std::vector<unsigned char> bits() const {
    std::vector<unsigned char> all;
    for (int64_t row = 0; row < rows_; row++)
      for (int64_t col = 0; col < cols_; col++)
        all.insert(all.end(), element(row, col), element(row, col) + bytes_);
    return all;
  }

  // Every byte that belongs to no element still has the value it was filled with.
  void expect_untouched_around() const { expect_untouched(false); }

  // Every byte does: nothing was written at all.
  void expect_untouched() const { expect_untouched(true); }

private:
  static constexpr unsigned char filling = 0xa5;

  matrix(ds_dtype dtype, int64_t rows, int64_t cols, layout where, size_t guard)
      : dtype_(dtype), bytes_(format_of(dtype).bytes), rows_(rows), cols_(cols) {
    int64_t first_byte = 0;
    view_ = ds_rows_contiguous(nullptr, rows, cols);
    place(where, &first_byte);
    int64_t last = 0; // one past the last element, counted from the first
    if (rows > 0 && cols > 0) last = offset(rows - 1, cols - 1) + 1;
    size_ = guard + static_cast<size_t>(first_byte + last * bytes_) + guard;
    memory_.reset(static_cast<unsigned char *>(std::malloc(size_ + (size_ == 0))));
    if (memory_ == nullptr) throw std::bad_alloc();
    std::memset(memory_.get(), filling, size_);
    view_.data = memory_.get() + guard + first_byte;
  }

  void place(layout where, int64_t *first_byte) {
    switch (where) {
    case layout::contiguous:
      break;
    case layout::second_element:
      *first_byte = bytes_;
      break;
    case layout::odd_address:
      *first_byte = 1;
      break;
    case layout::padded_rows:
      view_.strides[0] = cols_ + 3;
      break;
    case layout::blocks:
      if (rows_ % 2 != 0) break;
      view_.dims = 2;
      view_.sizes[0] = 2;
      view_.sizes[1] = rows_ / 2;
      view_.strides[0] = (rows_ / 2 + 1) * cols_;
      view_.strides[1] = cols_;
      break;
    case layout::spread_columns:
      view_.col_stride = 3;
      view_.strides[0] = 3 * cols_ + 1;
      break;
    case layout::column_major: {
      const int64_t images = rows_ > 0 && rows_ % 2 == 0 ? 2 : 1;
      view_.dims = static_cast<int32_t>(images);
      view_.sizes[0] = images == 2 ? 2 : rows_;
      view_.sizes[1] = rows_ / images;
      view_.strides[0] = images == 2 ? rows_ / images * cols_ : 1;
      view_.strides[1] = 1;
      view_.col_stride = rows_ / images;
      break;
    }
    case layout::repeated_row:
      view_.strides[0] = 0;
      break;
    }
  }

  // The row's place by its own counting of the dimensions, not by ds_rows_offset.
  int64_t offset(int64_t row, int64_t col) const {
    const int64_t inner = view_.dims == 2 ? view_.sizes[1] : 1;
    const int64_t outer_part = (view_.dims == 2 ? row / inner : row) * view_.strides[0];
    const int64_t inner_part = view_.dims == 2 ? row % inner * view_.strides[1] : 0;
    return outer_part + inner_part + col * view_.col_stride;
  }

  unsigned char *element(int64_t row, int64_t col) const {
    return static_cast<unsigned char *>(view_.data) + offset(row, col) * bytes_;
  }

  void expect_untouched(bool everywhere) const {
    std::vector<bool> ours(size_, false);
    for (int64_t row = 0; row < rows_ && !everywhere; row++)
      for (int64_t col = 0; col < cols_; col++)
        for (int byte = 0; byte < bytes_; byte++)
          ours[static_cast<size_t>(element(row, col) + byte - memory_.get())] = true;
    for (size_t i = 0; i < size_; i++)
      if (!ours[i]) {
        ASSERT_EQ(memory_.get()[i], filling) << "byte " << i << " of " << size_ << " was written";
      }
  }

  struct release {
    void operator()(unsigned char *memory) const { std::free(memory); }
  };

  ds_dtype dtype_;
  int bytes_;
  int64_t rows_, cols_;
  size_t size_ = 0;
  std::unique_ptr<unsigned char, release> memory_;
  ds_rows view_;
};

} // namespace ds_tests

#endif
