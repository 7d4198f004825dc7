#include "ds_rows.h"
#include <gtest/gtest.h>

namespace {

TEST(Rows, ContiguousRowsLieOneBehindTheOther) {
  float data[6];
  const ds_rows view = ds_rows_contiguous(data, 2, 3);
  EXPECT_EQ(view.data, data);
  EXPECT_EQ(view.dims, 1);
  EXPECT_EQ(view.col_stride, 1);
  EXPECT_EQ(view.sizes[0], 2);
  EXPECT_EQ(ds_rows_offset(&view, 0), 0);
  EXPECT_EQ(ds_rows_offset(&view, 1), 3);
}

TEST(Rows, OffsetsCountThroughEveryDimension) {
  ds_rows view = ds_rows_contiguous(nullptr, 0, 1);
  view.dims = DS_MAX_ROW_DIMS;
  int64_t rows = 1;
  for (int i = 0; i < DS_MAX_ROW_DIMS; i++) {
    view.sizes[i] = i % 3 + 1;
    view.strides[i] = (i + 1) * (i % 2 == 0 ? 1000003 : -17);
    rows *= view.sizes[i];
  }
  int64_t index[DS_MAX_ROW_DIMS] = {0};
  for (int64_t row = 0; row < rows; row++) {
    int64_t expected = 0;
    for (int i = 0; i < DS_MAX_ROW_DIMS; i++) expected += index[i] * view.strides[i];
    EXPECT_EQ(ds_rows_offset(&view, row), expected) << row;
    for (int i = DS_MAX_ROW_DIMS - 1; i >= 0 && ++index[i] == view.sizes[i]; i--) index[i] = 0;
  }
}

TEST(Rows, OffsetsExceed32Bits) {
  ds_rows view = ds_rows_contiguous(nullptr, int64_t{1} << 40, int64_t{1} << 20);
  EXPECT_EQ(ds_rows_offset(&view, (int64_t{1} << 40) - 1), (int64_t{1} << 60) - (int64_t{1} << 20));
  view.dims = 2;
  view.sizes[0] = int64_t{1} << 20;
  view.sizes[1] = int64_t{1} << 33;
  view.strides[0] = int64_t{1} << 34;
  view.strides[1] = 2;
  EXPECT_EQ(ds_rows_offset(&view, (int64_t{5} << 33) + 7), (int64_t{5} << 34) + 14);
}

} // namespace
