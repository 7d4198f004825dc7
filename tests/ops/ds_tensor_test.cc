#include "tensor.h"
#include <random>

namespace ds_tests {
namespace {

TEST(Tensor, CountsItsElements) {
  EXPECT_EQ(ds_tensor_numel(tensor(DS_FLOAT32, {}).get()), 1);
  EXPECT_EQ(ds_tensor_numel(tensor(DS_FLOAT32, {2, 3, 5}).get()), 30);
  EXPECT_EQ(ds_tensor_numel(tensor(DS_FLOAT32, {2, 0, 5}).get()), 0);
  tensor large(DS_FLOAT32, {1, 1});
  large.sizes = {int64_t{1} << 20, int64_t{1} << 20};
  EXPECT_EQ(ds_tensor_numel(large.get()), int64_t{1} << 40);
}

bool is_contiguous(const index_list &sizes, const index_list &strides) {
  tensor t(DS_FLOAT32, {});
  t.sizes = sizes;
  t.strides = strides;
  return ds_tensor_is_contiguous(t.get()) != 0;
}

TEST(Tensor, KnowsWhetherItIsContiguous) {
  EXPECT_TRUE(is_contiguous({}, {}));
  EXPECT_TRUE(is_contiguous({2, 3, 4}, {12, 4, 1}));
  EXPECT_FALSE(is_contiguous({2, 3, 4}, {16, 4, 1}));
  EXPECT_FALSE(is_contiguous({2, 3, 4}, {1, 2, 6}));
  EXPECT_FALSE(is_contiguous({4}, {2}));
  EXPECT_FALSE(is_contiguous({4}, {0}));
}

TEST(Tensor, StridesOfSingleElementsDoNotMatter) {
  EXPECT_TRUE(is_contiguous({1}, {7}));
  EXPECT_TRUE(is_contiguous({2, 1, 4}, {4, 99, 1}));
  EXPECT_TRUE(is_contiguous({1, 3, 1}, {-5, 1, 0}));
}

TEST(Tensor, EmptyIsContiguous) {
  EXPECT_TRUE(is_contiguous({0}, {5}));
  EXPECT_TRUE(is_contiguous({2, 0, 3}, {7, 7, 7}));
}

struct view_case {
  const char *what;
  index_list sizes, strides;
  int32_t column_dim;
  index_list row_sizes, row_strides;
  int64_t col_stride;
};

TEST(Tensor, RowsMergeRegularDimensions) {
  const std::vector<view_case> cases = {
      {"vector", {5}, {1}, -1, {1}, {5}, 1},
      {"contiguous", {2, 3, 4}, {12, 4, 1}, -1, {6}, {4}, 1},
      {"slice of columns", {2, 3, 4}, {30, 10, 1}, -1, {6}, {10}, 1},
      {"slice of the middle", {2, 3, 4}, {20, 4, 1}, -1, {2, 3}, {20, 4}, 1},
      {"transposed tokens", {2, 3, 4}, {12, 1, 3}, -1, {2, 3}, {12, 1}, 3},
      {"single dimensions left out", {2, 1, 3, 1, 4}, {12, 5, 4, 6, 1}, -1, {6}, {4}, 1},
      {"NCHW by channel", {2, 3, 4, 5}, {60, 20, 5, 1}, 1, {2, 20}, {60, 1}, 20},
      {"channels last by channel", {2, 3, 4, 5}, {60, 1, 15, 3}, 1, {40}, {3}, 1},
      {"expanded", {4, 3, 2}, {0, 2, 1}, -1, {4, 3}, {0, 2}, 1},
      {"expanded twice", {4, 3, 2}, {0, 0, 1}, -1, {12}, {0}, 1},
      {"one column", {4, 3, 1}, {3, 1, 77}, -1, {12}, {1}, 1},
  };
  for (const view_case &c : cases) {
    tensor t(DS_FLOAT32, {});
    t.sizes = c.sizes;
    t.strides = c.strides;
    ds_rows rows;
    ASSERT_EQ(ds_tensor_rows("x", t.get(), c.column_dim, &rows), DS_OK) << c.what;
    EXPECT_EQ(rows.data, t.data) << c.what;
    EXPECT_EQ(rows.col_stride, c.col_stride) << c.what;
    EXPECT_EQ(index_list(rows.sizes, rows.sizes + rows.dims), c.row_sizes) << c.what;
    EXPECT_EQ(index_list(rows.strides, rows.strides + rows.dims), c.row_strides) << c.what;
  }
}

// Whatever the strides, row r and column c are the elements that counting through the dimensions gives.
TEST(Tensor, RowsReachEveryElement) {
  std::mt19937 engine(1);
  for (int round = 0; round < 2000; round++) {
    const size_t rank = 1 + engine() % 5;
    tensor t(DS_FLOAT32, {});
    t.sizes.resize(rank);
    for (int64_t &size : t.sizes) size = 1 + engine() % 4;
    t.strides = contiguous_strides(t.sizes);
    for (int64_t &stride : t.strides) {
      if (engine() % 3 == 0) stride = engine() % 40;
    }
    std::shuffle(t.strides.begin(), t.strides.end(), engine);
    const auto column = static_cast<size_t>(engine() % rank);
    ds_rows rows;
    ASSERT_EQ(ds_tensor_rows("x", t.get(), static_cast<int32_t>(column), &rows), DS_OK);
    index_list row_sizes = t.sizes;
    row_sizes[column] = 1;
    int64_t row = 0;
    for_each_index(row_sizes, [&](const index_list &index) {
      int64_t offset = 0;
      for (size_t i = 0; i < rank; i++) offset += index[i] * t.strides[i];
      ASSERT_EQ(ds_rows_offset(&rows, row), offset);
      row++;
    });
    if (t.sizes[column] > 1) {
      EXPECT_EQ(rows.col_stride, t.strides[column]);
    }
  }
}

TEST(Tensor, AnEmptyTensorHasNoRows) {
  for (const index_list &sizes : {index_list{0, 4}, index_list{4, 0}, index_list{2, 0, 3}}) {
    tensor t(DS_FLOAT32, sizes);
    ds_rows rows;
    ASSERT_EQ(ds_tensor_rows("x", t.get(), -1, &rows), DS_OK);
    EXPECT_EQ(rows.dims, 1);
    EXPECT_EQ(rows.sizes[0], 0);
  }
}

TEST(Tensor, RefusesTooManyIrregularDimensions) {
  tensor t(DS_FLOAT32, {});
  for (int i = 0; i <= DS_MAX_ROW_DIMS; i++) {
    t.sizes.push_back(2);
    t.strides.push_back(1000 + 7 * i);
  }
  t.sizes.push_back(3);
  t.strides.push_back(1);
  ds_rows rows;
  EXPECT_EQ(ds_tensor_rows("residual", t.get(), -1, &rows), DS_E_STRIDE);
  EXPECT_STREQ(ds_error_message(),
               "residual has more than 8 dimensions that cannot be merged into rows, must be contiguous");
  t.sizes.erase(t.sizes.begin());
  t.strides.erase(t.strides.begin());
  EXPECT_EQ(ds_tensor_rows("residual", t.get(), -1, &rows), DS_OK);
}

} // namespace
} // namespace ds_tests
