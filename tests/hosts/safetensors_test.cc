#include "host_error.h"
#include "safetensors.h"
#include <cstring>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

class Safetensors : public testing::Test {
protected:
  Safetensors() : path_(testing::TempDir() + "host_" + std::to_string(getpid()) + ".safetensors") {}
  ~Safetensors() override { std::filesystem::remove(path_); }

  // Writes a file with a header of `length` bytes, its own length without one.
  void write(const std::string &header, const std::string &data, int64_t length = -1) {
    const uint64_t header_bytes = length >= 0 ? uint64_t(length) : header.size();
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char *>(&header_bytes), sizeof header_bytes);
    file << header << data;
  }

  // The error of opening it; empty where it opens.
  std::string error() {
    safetensors_file file;
    if (!safetensors_open(path_.c_str(), &file)) return host_error();
    safetensors_close(&file);
    return "";
  }

  std::string path_;
};

TEST_F(Safetensors, ReadsWhatItWrote) {
  const int64_t shape[] = {2, 3};
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  ASSERT_TRUE(safetensors_write(path_.c_str(), "latents", 2, shape, values.data()));
  safetensors_file file;
  ASSERT_TRUE(safetensors_open(path_.c_str(), &file)) << host_error();
  ASSERT_EQ(file.count, 1);
  const safetensors_tensor *found = safetensors_find(&file, "latents");
  ASSERT_NE(found, nullptr);
  EXPECT_STREQ(found->dtype, "F32");
  ASSERT_EQ(found->rank, 2);
  EXPECT_EQ(found->shape[1], 3);
  ASSERT_EQ(found->bytes, values.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(found->data, values.data(), found->bytes), 0);
  EXPECT_EQ(safetensors_find(&file, "other"), nullptr);
  EXPECT_EQ(host_error(), path_ + " has no tensor other");
  safetensors_close(&file);
}

TEST_F(Safetensors, ReadsSeveralTensorsBesideMetadata) {
  write(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
        R"("b":{"dtype":"BF16","shape":[0,4],"data_offsets":[8,8]}}   )",
        "12345678");
  safetensors_file file;
  ASSERT_TRUE(safetensors_open(path_.c_str(), &file)) << host_error();
  EXPECT_EQ(file.count, 2);
  EXPECT_EQ(safetensors_find(&file, "a")->rank, 0);
  EXPECT_EQ(safetensors_find(&file, "b")->bytes, 0u);
  safetensors_close(&file);
}

TEST_F(Safetensors, RefusesFilesThatBreakTheFormat) {
  const std::string eight(8, 'x');
  std::ofstream(path_).close();
  EXPECT_NE(error(), "");
  write("{}", "", 3);
  EXPECT_EQ(error(), path_ + " is no safetensors file: its header is longer than the file");
  write("{}", "", INT64_MAX);
  EXPECT_EQ(error(), path_ + " is no safetensors file: its header is longer than the file");
  for (const char *header : {"", "[]", "{", "nothing"}) {
    write(header, eight);
    EXPECT_EQ(error(), path_ + " is no safetensors file: its header is no JSON") << header;
  }
  for (const char *entry : {
           "1",
           "{}",
           R"({"dtype":"F32","shape":[2]})",
           R"({"dtype":"F32","shape":[2],"data_offsets":[0]})",
           R"({"dtype":1,"shape":[2],"data_offsets":[0,8]})",
           R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})",
           R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})",
           R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})",
           R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})",
           R"({"dtype":"F32","shape":[2],"data_offsets":[1,9]})",
           R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})",
           R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})",
           R"({"dtype":"F64","shape":[2305843009213693952,8],"data_offsets":[0,0]})",
       }) {
    write(std::string(R"({"a":)") + entry + "}", eight);
    EXPECT_EQ(error(), path_ + " is no safetensors file: its entry a is wrong") << entry;
  }
}

TEST_F(Safetensors, SaysWhatTheSystemSays) {
  path_ = "/no/such/folder/file";
  EXPECT_EQ(error(), path_ + " cannot be opened: No such file or directory");
  const int64_t shape[] = {1};
  const float value = 0;
  EXPECT_FALSE(safetensors_write(path_.c_str(), "latents", 1, shape, &value));
  EXPECT_EQ(std::string(host_error()), path_ + " cannot be written: No such file or directory");
}

} // namespace
