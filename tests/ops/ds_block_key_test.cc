// The key of a block's call: the same for the same call, another as soon as anything differs that decides
// what is enqueued.
#include "block_case.h"
#include "plain_services.h"

namespace ds_tests {
namespace {

using key = std::vector<char>;

// Hands out the same memory at each call, keeps the key; runs no work.
class keeping_services {
public:
  keeping_services() : plain_(true), memory_(1 << 20) {
    table = plain_.table;
    table.host = this;
    table.allocate = allocate;
    table.linear_workspace_bytes = 256;
    table.gated_linear_serves = nullptr;
    table.quantized_linear_serves = nullptr;
    table.enqueue = enqueue;
  }

  ds_services table;
  key last;
  int64_t offset = 0; // of the memory that is handed out
  int works = 0;

private:
  static ds_status allocate(void *host, size_t bytes, void **memory) {
    auto *self = static_cast<keeping_services *>(host);
    *memory = self->memory_.data() + self->offset;
    const bool fits =
        self->offset + static_cast<int64_t>(bytes) <= static_cast<int64_t>(self->memory_.size());
    return fits ? DS_OK : ds_error(DS_E_MEMORY, "%zu bytes were asked for", bytes);
  }

  static ds_status enqueue(void *host, const void *bytes, size_t count, ds_status (*)(void *), void *) {
    auto *self = static_cast<keeping_services *>(host);
    const char *const first = static_cast<const char *>(bytes);
    self->last.assign(first, first + count);
    self->works++;
    return DS_OK;
  }

  plain_services plain_;
  std::vector<char> memory_;
};

class BlockKey : public testing::Test {
protected:
  const key &key_of_call() {
    services.last.clear();
    EXPECT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
    EXPECT_FALSE(services.last.empty());
    EXPECT_EQ(services.last.size() % 8, 0u);
    return services.last;
  }

  template <typename T>
  void expect_another(const std::string &what, T *of, T changed) {
    SCOPED_TRACE(what);
    const key before = key_of_call();
    const T kept = *of;
    *of = changed;
    EXPECT_NE(key_of_call(), before);
    *of = kept;
    EXPECT_EQ(key_of_call(), before);
  }

  // With everything that a call can have.
  block_case block{{.ff_in_groups = 2,
                    .ff_out_groups = 2,
                    .attn1 = {.context_tokens = 5, .biases = true, .mask_sizes = {2, 1, 5, 5}},
                    .attn2 = {.context_tokens = 4, .biases = true, .mask_sizes = {2, 1, 4}},
                    .hidden_strides = {90, 15, 1}}};
  keeping_services services;
};

TEST_F(BlockKey, DependsOnTheAddressOfEachTensor) {
  for (const std::string &name : block.names())
    expect_another(name, &block.at(name).data,
                   static_cast<void *>(static_cast<char *>(block.at(name).data) + 64));
  expect_another("output", &block.output.data,
                 static_cast<void *>(static_cast<char *>(block.output.data) + 64));
  expect_another<int64_t>("scratch memory", &services.offset, 256);
}

TEST_F(BlockKey, DependsOnStrides) {
  for (const std::string name : {"hidden_states", "attn1_mask", "attn2_mask", "attn1_q_weight",
                                 "attn2_v_weight", "ff_in_weight", "ff_out_weight"})
    expect_another(name, &block.at(name).strides[0], block.at(name).strides[0] + 16);
}

TEST_F(BlockKey, DependsOnNumbers) {
  expect_another("norm_epsilon", &block.epsilon, 2e-5);
  expect_another<int64_t>("activation_type", &block.activation_type, 4);
  expect_another<int64_t>("heads", &block.heads, 1);
}

TEST_F(BlockKey, DependsOnTheDevice) {
  const key before = key_of_call();
  for (const std::string &name : block.names()) block.at(name).device_index = 1;
  block.output.device_index = 1;
  EXPECT_NE(key_of_call(), before);
}

// All tensors' addresses are the first case's.
TEST_F(BlockKey, DependsOnSizesAndDtypes) {
  const key before = key_of_call();
  const auto key_of = [&](block_options options) {
    block_case other(options);
    for (const std::string &name : other.names())
      if (block.has(name)) other.at(name).data = block.at(name).data;
    other.output.data = block.output.data;
    services.last.clear();
    EXPECT_EQ(other.call(nullptr, &services.table), DS_OK) << ds_error_message();
    return services.last;
  };
  block_options options = block.options;
  EXPECT_EQ(key_of(options), before);
  options.dtype = DS_FLOAT16;
  EXPECT_NE(key_of(options), before);
  options = block.options;
  options.ff_in_groups = 4;
  EXPECT_NE(key_of(options), before);
  options = block.options;
  options.ff_inner = 8;
  EXPECT_NE(key_of(options), before);
}

TEST_F(BlockKey, TellsWhichTensorsAreThere) {
  for (const std::string name : {"norm1_weight", "norm1_bias", "norm3_bias", "attn1_q_bias", "attn1_mask",
                                 "attn2_out_bias", "attn2_mask", "ff_in_bias", "ff_out_bias"})
    expect_another(name, &block.at(name).given, false);
}

TEST(BlockKeyOfGivenKeysAndValues, DependsOnThem) {
  block_case block({.attn2 = {.key_value_tokens = 4}});
  keeping_services services;
  const auto key_of_call = [&] {
    EXPECT_EQ(block.call(nullptr, &services.table), DS_OK) << ds_error_message();
    return services.last;
  };
  const key before = key_of_call();
  tensor &key_value = block.at("attn2_key_value");
  key_value.data = static_cast<char *>(key_value.data) + 64;
  EXPECT_NE(key_of_call(), before);
  key_value.data = static_cast<char *>(key_value.data) - 64;
  EXPECT_EQ(key_of_call(), before);
  key_value.strides = {4 * 32, 32, 1};
  EXPECT_NE(key_of_call(), before);
}

TEST_F(BlockKey, DoesNotDependOnValues) {
  const key before = key_of_call();
  for (const std::string &name : block.names())
    if (block.at(name).dtype == DS_FLOAT32) *static_cast<float *>(block.at(name).data) = 0.5f;
  EXPECT_EQ(key_of_call(), before);
}

TEST_F(BlockKey, WorkIsLeftToTheService) {
  key_of_call();
  EXPECT_EQ(services.works, 1);
  block.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
