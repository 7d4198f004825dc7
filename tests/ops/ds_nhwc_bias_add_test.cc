// nhwc_bias_add: the three forms in every memory format, and every check.
#include "ds_nhwc_bias_add.h"
#include "wrong_arguments.h"

namespace ds_tests {
namespace {

// Strides of [N, C, H, W] = {2, 5, 3, 4}, or of [B, S, C] = {2, 12, 5}.
struct memory_format {
  const char *what;
  index_list strides;
};

const std::vector<memory_format> formats_of_images = {{"contiguous", {60, 12, 4, 1}},
                                                      {"channels last", {60, 1, 20, 5}},
                                                      {"a slice", {200, 20, 5, 1}},
                                                      {"odd", {3, 30, 300, 900}}};
const std::vector<memory_format> formats_of_tokens = {
    {"contiguous", {60, 5, 1}}, {"transposed", {60, 1, 12}}, {"a slice", {200, 9, 1}}, {"odd", {1, 30, 400}}};

struct bias_add_arguments {
  explicit bias_add_arguments(ds_dtype dtype = DS_FLOAT16, const index_list &sizes = {2, 5, 3, 4},
                              const index_list &strides = {60, 12, 4, 1},
                              const index_list &other_strides = {60, 12, 4, 1},
                              const index_list &output_strides = {60, 12, 4, 1})
      : activation(dtype, sizes, strides, 1), bias(dtype, {5}, 2), other(dtype, sizes, other_strides, 3),
        other_bias(dtype, {5}, 4), output(dtype, sizes, output_strides) {}

  ds_status call() {
    return ds_nhwc_bias_add(nullptr, activation.get(), bias.get(), other.get(), other_bias.get(),
                            output.get());
  }

  tensor activation, bias, other, other_bias, output;
};

void expect_result(bias_add_arguments &a) {
  const size_t channel = a.activation.sizes.size() == 4 ? 1 : 2;
  const double unit = unit_at(a.output.dtype, 4.0);
  for_each_index(a.activation.sizes, [&](const index_list &index) {
    double expected = a.activation.at(index) + a.bias.at({index[channel]});
    if (a.other.given)
      expected += a.other.at(index) + (a.other_bias.given ? a.other_bias.at({index[channel]}) : 0.0);
    ASSERT_NEAR(a.output.at(index), expected, unit);
  });
  a.output.expect_untouched_around();
}

void run_in_every_format(ds_dtype dtype, const index_list &sizes, const std::vector<memory_format> &formats) {
  for (const memory_format &input : formats)
    for (const memory_format &other : formats)
      for (const memory_format &output : formats)
        for (int form = 0; form < 3; form++) {
          SCOPED_TRACE(std::string(input.what) + ", " + other.what + " to " + output.what);
          bias_add_arguments a(dtype, sizes, input.strides, other.strides, output.strides);
          a.other.given = form > 0;
          a.other_bias.given = form > 1;
          ASSERT_EQ(a.call(), DS_OK) << ds_error_message();
          expect_result(a);
        }
}

TEST(NhwcBiasAdd, TakesImagesInAnyFormat) {
  for (const ds_dtype dtype : {DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16})
    run_in_every_format(dtype, {2, 5, 3, 4}, formats_of_images);
}

TEST(NhwcBiasAdd, TakesTokensInAnyFormat) {
  for (const ds_dtype dtype : {DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16})
    run_in_every_format(dtype, {2, 12, 5}, formats_of_tokens);
}

TEST(NhwcBiasAdd, EmptyInputsWriteNothing) {
  for (const index_list &sizes : {index_list{0, 5, 3, 4}, {2, 5, 0, 4}, {2, 0, 5}, {0, 0, 5}}) {
    const index_list strides = contiguous_strides(sizes);
    bias_add_arguments a(DS_FLOAT32, sizes, strides, strides, strides);
    a.activation.data = a.other.data = a.output.data = nullptr;
    EXPECT_EQ(a.call(), DS_OK) << ds_error_message();
    a.output.expect_untouched();
  }
}

TEST(NhwcBiasAdd, NoChannelsWriteNothing) {
  const index_list sizes = {2, 0, 3, 4}, strides = contiguous_strides(sizes);
  bias_add_arguments a(DS_FLOAT32, sizes, strides, strides, strides);
  a.bias.sizes = a.other_bias.sizes = {0};
  EXPECT_EQ(a.call(), DS_OK) << ds_error_message();
  a.output.expect_untouched();
}

using wrong = wrong_argument<bias_add_arguments>;

tensor &activation_of(bias_add_arguments &a) {
  return a.activation;
}
tensor &bias_of(bias_add_arguments &a) {
  return a.bias;
}
tensor &other_of(bias_add_arguments &a) {
  return a.other;
}
tensor &other_bias_of(bias_add_arguments &a) {
  return a.other_bias;
}
tensor &output_of(bias_add_arguments &a) {
  return a.output;
}

using accessor = tensor &(*)(bias_add_arguments &);

wrong wrong_shape(const std::string &name, accessor get, const index_list &shape, const std::string &message,
                  int number) {
  return {name + "_of_shape_" + std::to_string(number),
          [get, shape](bias_add_arguments &a) {
            get(a).sizes = shape;
            get(a).strides = contiguous_strides(shape);
          },
          DS_E_SHAPE, name + " has shape " + message};
}

std::vector<wrong> all_wrong() {
  std::vector<wrong> all = wrong_tensor<bias_add_arguments>("activation", activation_of, true, "activation");
  append(all, wrong_tensor<bias_add_arguments>("bias", bias_of, true, "activation"));
  append(all, wrong_tensor<bias_add_arguments>("other", other_of, false, "activation"));
  append(all, wrong_tensor<bias_add_arguments>("other_bias", other_bias_of, false, "activation"));
  append(all, wrong_tensor<bias_add_arguments>("output", output_of, true, "activation"));
  const std::string ranks = ", must be [B, S, C] or [N, C, H, W]";
  all.push_back(wrong_shape("activation", activation_of, {}, "[]" + ranks, 1));
  all.push_back(wrong_shape("activation", activation_of, {5, 12}, "[5, 12]" + ranks, 2));
  all.push_back(wrong_shape("activation", activation_of, {1, 1, 5, 3, 4}, "[1, 1, 5, 3, 4]" + ranks, 3));
  const std::string channels = ", must be [5], the number of activation's channels";
  const std::string shape = ", must be [2, 5, 3, 4], the shape of activation";
  for (const auto &[name, get] :
       {std::pair<std::string, accessor>{"bias", bias_of}, {"other_bias", other_bias_of}}) {
    all.push_back(wrong_shape(name, get, {4}, "[4]" + channels, 1));
    all.push_back(wrong_shape(name, get, {1, 5}, "[1, 5]" + channels, 2));
    all.push_back(wrong_shape(name, get, {}, "[]" + channels, 3));
    all.push_back({name + "_of_stride_2", [get = get](bias_add_arguments &a) { get(a).strides = {2}; },
                   DS_E_STRIDE, name + " has stride 2, must be contiguous"});
  }
  for (const auto &[name, get] :
       {std::pair<std::string, accessor>{"other", other_of}, {"output", output_of}}) {
    all.push_back(wrong_shape(name, get, {2, 5, 3, 3}, "[2, 5, 3, 3]" + shape, 1));
    all.push_back(wrong_shape(name, get, {2, 5, 12}, "[2, 5, 12]" + shape, 2));
    all.push_back(wrong_shape(name, get, {1, 5, 3, 4}, "[1, 5, 3, 4]" + shape, 3));
  }
  all.push_back({"other_bias_without_other", [](bias_add_arguments &a) { a.other.given = false; }, DS_E_NULL,
                 "other is None, must be a tensor where other_bias is given"});
  return all;
}

class NhwcBiasAddArguments : public testing::TestWithParam<wrong> {};

INSTANTIATE_TEST_SUITE_P(Wrong, NhwcBiasAddArguments, testing::ValuesIn(all_wrong()),
                         name_of_wrong_argument<bias_add_arguments>);

TEST_P(NhwcBiasAddArguments, AreRefused) {
  bias_add_arguments a;
  GetParam().spoil(a);
  expect_refusal("nhwc_bias_add", a.call(), GetParam().status, GetParam().message);
  a.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
