// gated_activation: results through every kind of view, and every check.
#include "ds_gated_activation.h"
#include "wrong_arguments.h"

namespace ds_tests {
namespace {

index_list halved(index_list sizes) {
  if (!sizes.empty()) sizes.back() /= 2;
  return sizes;
}

struct gated_activation_arguments {
  explicit gated_activation_arguments(ds_dtype dtype = DS_FLOAT16, const index_list &sizes = {2, 3, 8},
                                      const index_list &strides = {24, 8, 1})
      : activation(dtype, sizes, strides, 1, 0.0, 3.0), bias(dtype, {sizes.back()}, 2),
        output(dtype, halved(sizes)) {}

  ds_status call() {
    return ds_gated_activation(nullptr, activation.get(), bias.get(), activation_type, output.get());
  }

  tensor activation, bias, output;
  int64_t activation_type = DS_ACTIVATION_GATED_GELU;
};

void expect_result(gated_activation_arguments &a) {
  const int64_t cols = a.output.sizes.back();
  const double unit = unit_at(a.output.dtype, 4.0);
  for_each_index(a.output.sizes, [&](index_list index) {
    const int64_t col = index.back();
    const double result = a.output.at(index);
    const double value = a.activation.at(index) + (a.bias.given ? a.bias.at({col}) : 0.0);
    index.back() = cols + col;
    const double gate = a.activation.at(index) + (a.bias.given ? a.bias.at({cols + col}) : 0.0);
    const double activated = a.activation_type == DS_ACTIVATION_GATED_SILU
                                 ? gate / (1 + std::exp(-gate))
                                 : gate * 0.5 * std::erfc(-gate / std::sqrt(2.0));
    ASSERT_NEAR(result, value * activated, 4 * unit);
  });
}

TEST(GatedActivation, TakesAnyRankDtypeAndType) {
  for (const ds_dtype dtype : {DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16})
    for (const int64_t type : {DS_ACTIVATION_GATED_GELU, DS_ACTIVATION_GATED_SILU})
      for (const bool bias : {false, true})
        for (const index_list &sizes : {index_list{14}, {3, 2}, {2, 3, 14}, {2, 3, 2, 14}}) {
          gated_activation_arguments a(dtype, sizes, contiguous_strides(sizes));
          a.activation_type = type;
          a.bias.given = bias;
          ASSERT_EQ(a.call(), DS_OK) << ds_error_message();
          expect_result(a);
          a.output.expect_untouched_around();
        }
}

TEST(GatedActivation, TakesAnyStrides) {
  for (const ds_dtype dtype : {DS_FLOAT32, DS_FLOAT16})
    for (const index_list &strides :
         {index_list{40, 10, 1}, {24, 1, 3}, {1, 16, 2}, {60, 20, 2}, {0, 8, 1}}) {
      gated_activation_arguments a(dtype, {2, 3, 8}, strides);
      ASSERT_EQ(a.call(), DS_OK) << ds_error_message();
      expect_result(a);
    }
}

TEST(GatedActivation, EmptyInputsWriteNothing) {
  for (const index_list &sizes : {index_list{0, 8}, {2, 0, 8}, {3, 0}, {0}}) {
    gated_activation_arguments a(DS_FLOAT32, sizes, contiguous_strides(sizes));
    a.activation.data = a.output.data = nullptr;
    EXPECT_EQ(a.call(), DS_OK) << ds_error_message();
    a.output.expect_untouched();
  }
}

TEST(GatedActivation, TellsTheSizesOfTheResult) {
  tensor activation(DS_FLOAT32, {2, 3, 8});
  int64_t sizes[3];
  ASSERT_EQ(ds_gated_activation_sizes(activation.get(), sizes), DS_OK);
  EXPECT_EQ(index_list(sizes, sizes + 3), (index_list{2, 3, 4}));
  activation.sizes = {2, 3, 7};
  expect_refusal("gated_activation", ds_gated_activation_sizes(activation.get(), sizes), DS_E_SHAPE,
                 "activation has shape [2, 3, 7], must be of rank 1 or more with an even last dimension");
  activation.sizes = activation.strides = {};
  EXPECT_EQ(ds_gated_activation_sizes(activation.get(), sizes), DS_E_SHAPE);
  EXPECT_EQ(ds_gated_activation_sizes(nullptr, sizes), DS_E_NULL);
}

using wrong = wrong_argument<gated_activation_arguments>;

tensor &activation_of(gated_activation_arguments &a) {
  return a.activation;
}
tensor &bias_of(gated_activation_arguments &a) {
  return a.bias;
}
tensor &output_of(gated_activation_arguments &a) {
  return a.output;
}

wrong wrong_shape(const std::string &name, tensor &(*get)(gated_activation_arguments &),
                  const index_list &shape, const std::string &message, int number) {
  return {name + "_of_shape_" + std::to_string(number),
          [get, shape](gated_activation_arguments &a) {
            get(a).sizes = shape;
            get(a).strides = contiguous_strides(shape);
          },
          DS_E_SHAPE, name + " has shape " + message};
}

std::vector<wrong> all_wrong() {
  std::vector<wrong> all =
      wrong_tensor<gated_activation_arguments>("activation", activation_of, true, "activation");
  append(all, wrong_tensor<gated_activation_arguments>("bias", bias_of, false, "activation"));
  append(all, wrong_tensor<gated_activation_arguments>("output", output_of, true, "activation"));
  const std::string even = ", must be of rank 1 or more with an even last dimension";
  all.push_back(wrong_shape("activation", activation_of, {}, "[]" + even, 1));
  all.push_back(wrong_shape("activation", activation_of, {2, 3, 7}, "[2, 3, 7]" + even, 2));
  const std::string whole = ", must be [8], the size of activation's last dimension";
  all.push_back(wrong_shape("bias", bias_of, {4}, "[4]" + whole, 1));
  all.push_back(wrong_shape("bias", bias_of, {2, 4}, "[2, 4]" + whole, 2));
  all.push_back({"bias_of_stride_3", [](gated_activation_arguments &a) { a.bias.strides = {3}; }, DS_E_STRIDE,
                 "bias has stride 3, must be contiguous"});
  const std::string half = ", must be [2, 3, 4]";
  all.push_back(wrong_shape("output", output_of, {2, 3, 8}, "[2, 3, 8]" + half, 1));
  all.push_back(wrong_shape("output", output_of, {3, 2, 4}, "[3, 2, 4]" + half, 2));
  all.push_back(wrong_shape("output", output_of, {6, 4}, "[6, 4]" + half, 3));
  all.push_back({"output_not_contiguous",
                 [](gated_activation_arguments &a) {
                   a.output.strides = {1, 2, 6};
                 },
                 DS_E_STRIDE, "output is not contiguous, must be contiguous"});
  for (const int64_t type : {-1, 0, 1, 2, 5, 1000})
    all.push_back(
        {"activation_type_" + std::to_string(all.size()),
         [type](gated_activation_arguments &a) { a.activation_type = type; }, DS_E_VALUE,
         "activation_type is " + std::to_string(type) + ", must be 3 (GATED_GELU) or 4 (GATED_SILU)"});
  all.push_back({"activation_type_beyond_32_bits",
                 [](gated_activation_arguments &a) { a.activation_type = (int64_t{1} << 32) + 3; },
                 DS_E_VALUE, "activation_type is 4294967299, must be 3 (GATED_GELU) or 4 (GATED_SILU)"});
  return all;
}

class GatedActivationArguments : public testing::TestWithParam<wrong> {};

INSTANTIATE_TEST_SUITE_P(Wrong, GatedActivationArguments, testing::ValuesIn(all_wrong()),
                         name_of_wrong_argument<gated_activation_arguments>);

TEST_P(GatedActivationArguments, AreRefused) {
  gated_activation_arguments a;
  GetParam().spoil(a);
  expect_refusal("gated_activation", a.call(), GetParam().status, GetParam().message);
  a.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
