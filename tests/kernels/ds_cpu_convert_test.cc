#include "cpu_kernel_test.h"

namespace ds_tests {
namespace {

class Conversions : public cpu_kernel_test {
protected:
  float load_one(uint32_t bits) const {
    float value;
    kernels->load(dtype, &bits, 1, &value);
    return value;
  }

  uint32_t store_one(float value) const {
    uint32_t bits = 0;
    kernels->store(dtype, &value, 1, &bits);
    return bits;
  }
};

class Rounding : public Conversions {};

INSTANTIATE_TEST_SUITE_P(Cpu, Conversions, each_capability_and_dtype(), name_of_case);
INSTANTIATE_TEST_SUITE_P(Cpu, Rounding, each_capability_and_16_bit_dtype(), name_of_case);

// Every 16-bit number, and numbers of every exponent in float32.
std::vector<uint32_t> numbers(ds_dtype dtype) {
  std::vector<uint32_t> all;
  for (uint32_t i = 0; i < 0x10000; i++)
    all.push_back(dtype == DS_FLOAT32 ? i << 16 | (i * 40503u & 0xffffu) : i);
  return all;
}

TEST_P(Conversions, EveryNumberIsReadExactly) {
  for (const uint32_t bits : numbers(dtype)) {
    const double expected = decode(dtype, bits);
    const float value = load_one(bits);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << std::hex << bits;
    } else {
      EXPECT_TRUE(value == expected && std::signbit(value) == std::signbit(expected)) << std::hex << bits;
    }
  }
}

TEST_P(Conversions, EveryNumberComesBack) {
  for (const uint32_t bits : numbers(dtype)) {
    const uint32_t back = store_one(load_one(bits));
    if (std::isnan(decode(dtype, bits))) {
      EXPECT_TRUE(std::isnan(decode(dtype, back))) << std::hex << bits;
    } else {
      EXPECT_EQ(back, bits) << std::hex << bits;
    }
  }
}

// The midpoint between each number and the next, which is a tie, and its two neighbours in float32.
TEST_P(Rounding, GoesToNearestAndTiesToEven) {
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    const double value = decode(dtype, bits);
    if (!std::isfinite(value)) continue;
    const auto tie = static_cast<float>(value + std::copysign(unit_at(dtype, value) / 2, value));
    for (const float near : {std::nextafter(tie, -INFINITY), tie, std::nextafter(tie, INFINITY)})
      ASSERT_EQ(store_one(near), encode(dtype, near)) << std::hex << bits << " " << std::hexfloat << near;
  }
}

TEST_P(Rounding, TakesAnyFloat32) {
  std::mt19937 engine(1);
  for (int i = 0; i < 300000; i++) {
    const uint32_t bits = engine();
    float value;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(decode(dtype, store_one(value)))) << std::hex << bits;
    } else {
      ASSERT_EQ(store_one(value), encode(dtype, value)) << std::hex << bits;
    }
  }
}

TEST_P(Rounding, KeepsNaNWhateverItsPayload) {
  for (const uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu, 0x7fc00000u, 0x7f80ffffu}) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    EXPECT_TRUE(std::isnan(decode(dtype, store_one(value)))) << std::hex << bits;
  }
}

// Vector code and the elements it leaves over agree, bit for bit, at every length and address.
TEST_P(Conversions, RunsOfAnyLengthAndAddress) {
  const int bytes = format_of(dtype).bytes;
  for (int count = 1; count <= 70; count++)
    for (int shift = 0; shift < 3; shift++) {
      std::vector<unsigned char> source(static_cast<size_t>(shift + count * bytes));
      for (int i = 0; i < count; i++)
        write_element(dtype, &source[static_cast<size_t>(shift + i * bytes)], 0.37 * i - 9);
      std::vector<float> loaded(static_cast<size_t>(count) + 1, -1.0f);
      kernels->load(dtype, source.data() + shift, count, loaded.data());
      for (int i = 0; i < count; i++)
        EXPECT_EQ(loaded[static_cast<size_t>(i)], round_to(dtype, 0.37 * i - 9));
      EXPECT_EQ(loaded.back(), -1.0f);
      std::vector<unsigned char> stored(source.size() + 1, 0xa5);
      kernels->store(dtype, loaded.data(), count, stored.data() + shift);
      EXPECT_TRUE(std::equal(source.begin() + shift, source.end(), stored.begin() + shift)) << count;
      EXPECT_EQ(stored.back(), 0xa5);
    }
}

} // namespace
} // namespace ds_tests
