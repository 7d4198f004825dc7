extern "C" {
#include "ds_scratch.h"
}
#include <gtest/gtest.h>
#include <random>
#include <vector>

namespace {

size_t aligned_end(const ds_scratch_buffer &buffer) {
  return buffer.offset + buffer.bytes;
}

void expect_sound(const std::vector<ds_scratch_buffer> &buffers, size_t total) {
  for (size_t i = 0; i < buffers.size(); i++) {
    EXPECT_EQ(buffers[i].offset % DS_SCRATCH_ALIGNMENT, 0u);
    EXPECT_LE(aligned_end(buffers[i]), total);
    for (size_t j = 0; j < i; j++) {
      const bool together = buffers[i].first <= buffers[j].last && buffers[j].first <= buffers[i].last;
      const bool overlap =
          buffers[i].offset < aligned_end(buffers[j]) && buffers[j].offset < aligned_end(buffers[i]);
      EXPECT_FALSE(together && overlap && buffers[i].bytes != 0 && buffers[j].bytes != 0)
          << i << " and " << j;
    }
  }
}

TEST(Scratch, NothingNeedsNothing) {
  EXPECT_EQ(ds_scratch_plan(nullptr, 0), 0u);
  ds_scratch_buffer empty = {0, 0, 5, 1};
  EXPECT_EQ(ds_scratch_plan(&empty, 1), 0u);
}

TEST(Scratch, BuffersThatNeverMeetShareMemory) {
  std::vector<ds_scratch_buffer> buffers = {{1000, 0, 1, 0}, {1000, 2, 3, 0}, {1000, 4, 4, 0}};
  EXPECT_EQ(ds_scratch_plan(buffers.data(), 3), 1024u);
}

TEST(Scratch, BuffersThatMeetAtOneStepDoNot) {
  std::vector<ds_scratch_buffer> buffers = {{256, 0, 2, 0}, {256, 2, 3, 0}};
  EXPECT_EQ(ds_scratch_plan(buffers.data(), 2), 512u);
  EXPECT_NE(buffers[0].offset, buffers[1].offset);
}

TEST(Scratch, NoTwoLivingBuffersEverOverlap) {
  std::mt19937 engine(1);
  for (int round = 0; round < 500; round++) {
    std::vector<ds_scratch_buffer> buffers(1 + engine() % 64);
    size_t sum = 0;
    for (ds_scratch_buffer &buffer : buffers) {
      buffer.bytes = engine() % 4 == 0 ? 0 : engine() % 5000;
      buffer.first = static_cast<int>(engine() % 12);
      buffer.last = buffer.first + static_cast<int>(engine() % 6);
      sum += (buffer.bytes + DS_SCRATCH_ALIGNMENT - 1) / DS_SCRATCH_ALIGNMENT * DS_SCRATCH_ALIGNMENT;
    }
    const size_t total = ds_scratch_plan(buffers.data(), static_cast<int>(buffers.size()));
    EXPECT_LE(total, sum);
    expect_sound(buffers, total);
  }
}

} // namespace
