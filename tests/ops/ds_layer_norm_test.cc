// layer_norm and layer_norm_residual_store_pre_ln_res: results through every kind of view, and every check.
#include "ds_layer_norm.h"
#include "wrong_arguments.h"

namespace ds_tests {
namespace {

struct layer_norm_arguments {
  explicit layer_norm_arguments(ds_dtype dtype = DS_FLOAT16, const index_list &sizes = {2, 3, 8},
                                const index_list &strides = {24, 8, 1})
      : input(dtype, sizes, strides, 1), residual(dtype, sizes, strides, 2), bias(dtype, {sizes.back()}, 3),
        gamma(dtype, {sizes.back()}, 4), beta(dtype, {sizes.back()}, 5), output(dtype, sizes),
        sum(dtype, sizes) {}

  ds_status call() {
    return ds_layer_norm(nullptr, input.get(), gamma.get(), beta.get(), epsilon, output.get());
  }

  ds_status call_with_residual() {
    return ds_layer_norm_residual_store_pre_ln_res(nullptr, input.get(), bias.get(), residual.get(),
                                                   gamma.get(), beta.get(), epsilon, output.get(), sum.get());
  }

  tensor input, residual, bias, gamma, beta, output, sum;
  double epsilon = 1e-5;
};

// Whether each output is the norm of input (+ bias + residual), to a few units of the dtype.
void expect_norm(layer_norm_arguments &a, bool with_residual) {
  const int64_t cols = a.input.sizes.back();
  index_list leading = a.input.sizes;
  leading.back() = 1;
  const double unit = unit_at(a.input.dtype, 1.0);
  for_each_index(leading, [&](index_list index) {
    std::vector<double> s(static_cast<size_t>(cols));
    double mean = 0, variance = 0;
    for (int64_t col = 0; col < cols; col++) {
      index.back() = col;
      s[static_cast<size_t>(col)] = a.input.at(index);
      if (with_residual)
        s[static_cast<size_t>(col)] += a.residual.at(index) + (a.bias.given ? a.bias.at({col}) : 0.0);
      mean += s[static_cast<size_t>(col)] / static_cast<double>(cols);
    }
    for (const double value : s) variance += (value - mean) * (value - mean) / static_cast<double>(cols);
    for (int64_t col = 0; col < cols; col++) {
      index.back() = col;
      const double normal = (s[static_cast<size_t>(col)] - mean) / std::sqrt(variance + a.epsilon);
      const double expected =
          normal * (a.gamma.given ? a.gamma.at({col}) : 1.0) + (a.beta.given ? a.beta.at({col}) : 0.0);
      ASSERT_NEAR(a.output.at(index), expected, 4 * unit);
      if (with_residual) {
        ASSERT_NEAR(a.sum.at(index), s[static_cast<size_t>(col)], 2 * unit);
      }
    }
  });
}

TEST(LayerNorm, TakesAnyRankAndDtype) {
  for (const ds_dtype dtype : {DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16})
    for (const index_list &sizes : {index_list{7}, {3, 7}, {2, 3, 7}, {2, 3, 2, 7}, {2, 1, 3, 1, 2, 7}}) {
      layer_norm_arguments a(dtype, sizes, contiguous_strides(sizes));
      ASSERT_EQ(a.call(), DS_OK) << ds_error_message();
      expect_norm(a, false);
      a.output.expect_untouched_around();
      ASSERT_EQ(a.call_with_residual(), DS_OK) << ds_error_message();
      expect_norm(a, true);
      a.sum.expect_untouched_around();
    }
}

TEST(LayerNorm, TakesAnyStrides) {
  for (const ds_dtype dtype : {DS_FLOAT32, DS_FLOAT16})
    for (const index_list &strides :
         {index_list{40, 10, 1}, {24, 1, 3}, {1, 16, 2}, {60, 20, 2}, {0, 8, 1}, {0, 0, 1}}) {
      layer_norm_arguments a(dtype, {2, 3, 8}, strides);
      ASSERT_EQ(a.call(), DS_OK) << ds_error_message();
      expect_norm(a, false);
      ASSERT_EQ(a.call_with_residual(), DS_OK) << ds_error_message();
      expect_norm(a, true);
    }
}

TEST(LayerNorm, OptionalArgumentsCanBeMissing) {
  for (int choice = 0; choice < 8; choice++) {
    layer_norm_arguments a;
    a.gamma.given = (choice & 1) != 0;
    a.beta.given = (choice & 2) != 0;
    a.bias.given = (choice & 4) != 0;
    ASSERT_EQ(a.call(), DS_OK) << ds_error_message();
    expect_norm(a, false);
    ASSERT_EQ(a.call_with_residual(), DS_OK) << ds_error_message();
    expect_norm(a, true);
  }
}

TEST(LayerNorm, EmptyInputsWriteNothing) {
  for (const index_list &sizes : {index_list{0, 8}, {2, 0, 8}, {0, 0, 8}}) {
    layer_norm_arguments a(DS_FLOAT32, sizes, contiguous_strides(sizes));
    a.input.data = a.residual.data = a.output.data = a.sum.data = nullptr;
    EXPECT_EQ(a.call(), DS_OK);
    EXPECT_EQ(a.call_with_residual(), DS_OK);
    a.output.expect_untouched();
    a.sum.expect_untouched();
  }
}

using wrong = wrong_argument<layer_norm_arguments>;

// A vector of the size of the last dimension, 8.
std::vector<wrong> wrong_vector(const std::string &name, const tensor_of<layer_norm_arguments> &get) {
  std::vector<wrong> all = wrong_tensor<layer_norm_arguments>(name, get, false, "input");
  const std::string must = ", must be [8], the size of input's last dimension";
  for (const auto &[shape, text] : {std::pair<index_list, std::string>{{}, "[]"},
                                    {{7}, "[7]"},
                                    {{9}, "[9]"},
                                    {{0}, "[0]"},
                                    {{1, 8}, "[1, 8]"},
                                    {{8, 1}, "[8, 1]"}})
    all.push_back({name + "_of_shape_" + std::to_string(all.size()),
                   [get, sizes = shape](layer_norm_arguments &a) {
                     get(a).sizes = sizes;
                     get(a).strides = contiguous_strides(sizes);
                   },
                   DS_E_SHAPE, name + " has shape " + text + must});
  for (const int64_t stride : {0, 2})
    all.push_back({name + "_of_stride_" + std::to_string(stride),
                   [get, stride](layer_norm_arguments &a) { get(a).strides = {stride}; }, DS_E_STRIDE,
                   name + " has stride " + std::to_string(stride) + ", must be contiguous"});
  return all;
}

std::vector<wrong> wrong_output(const std::string &name, const tensor_of<layer_norm_arguments> &get) {
  std::vector<wrong> all = wrong_tensor<layer_norm_arguments>(name, get, true, "input");
  for (const auto &[shape, text] : {std::pair<index_list, std::string>{{2, 3, 7}, "[2, 3, 7]"},
                                    {{3, 3, 8}, "[3, 3, 8]"},
                                    {{6, 8}, "[6, 8]"},
                                    {{2, 3, 8, 1}, "[2, 3, 8, 1]"},
                                    {{}, "[]"}})
    all.push_back({name + "_of_shape_" + std::to_string(all.size()),
                   [get, sizes = shape](layer_norm_arguments &a) {
                     get(a).sizes = sizes;
                     get(a).strides = contiguous_strides(sizes);
                   },
                   DS_E_SHAPE, name + " has shape " + text + ", must be [2, 3, 8]"});
  all.push_back({name + "_not_contiguous",
                 [get](layer_norm_arguments &a) {
                   get(a).strides = {1, 2, 6};
                 },
                 DS_E_STRIDE, name + " is not contiguous, must be contiguous"});
  return all;
}

tensor &input_of(layer_norm_arguments &a) {
  return a.input;
}
tensor &residual_of(layer_norm_arguments &a) {
  return a.residual;
}
tensor &bias_of(layer_norm_arguments &a) {
  return a.bias;
}
tensor &gamma_of(layer_norm_arguments &a) {
  return a.gamma;
}
tensor &beta_of(layer_norm_arguments &a) {
  return a.beta;
}
tensor &output_of(layer_norm_arguments &a) {
  return a.output;
}
tensor &sum_of(layer_norm_arguments &a) {
  return a.sum;
}

std::vector<wrong> wrong_in_both() {
  std::vector<wrong> all = wrong_tensor<layer_norm_arguments>("input", input_of, true, "input");
  for (const auto &[shape, text] : {std::pair<index_list, std::string>{{}, "[]"}, {{2, 0}, "[2, 0]"}})
    all.push_back(
        {"input_of_shape_" + std::to_string(all.size()),
         [sizes = shape](layer_norm_arguments &a) {
           a.input.sizes = sizes;
           a.input.strides = contiguous_strides(sizes);
         },
         DS_E_SHAPE,
         "input has shape " + text + ", must be of rank 1 or more with a last dimension of 1 or more"});
  append(all, wrong_vector("gamma", gamma_of));
  append(all, wrong_vector("beta", beta_of));
  append(all, wrong_output("output", output_of));
  for (const auto &[value, text] : {std::pair<double, std::string>{-1e-5, "-1e-05"},
                                    {INFINITY, "inf"},
                                    {-INFINITY, "-inf"},
                                    {std::abs(std::nan("")), "nan"}})
    all.push_back({"epsilon_" + std::to_string(all.size()),
                   [epsilon = value](layer_norm_arguments &a) { a.epsilon = epsilon; }, DS_E_VALUE,
                   "epsilon is " + text + ", must be finite and not negative"});
  return all;
}

std::vector<wrong> wrong_with_residual() {
  std::vector<wrong> all = wrong_in_both();
  append(all, wrong_vector("bias", bias_of));
  append(all, wrong_tensor<layer_norm_arguments>("residual", residual_of, true, "input"));
  append(all, wrong_output("sum", sum_of));
  all.push_back({"residual_of_another_shape",
                 [](layer_norm_arguments &a) {
                   a.residual.sizes = {2, 1, 8};
                 },
                 DS_E_SHAPE, "residual has shape [2, 1, 8], must be [2, 3, 8], the shape of input"});
  return all;
}

class LayerNormArguments : public testing::TestWithParam<wrong> {};
class LayerNormResidualArguments : public testing::TestWithParam<wrong> {};

INSTANTIATE_TEST_SUITE_P(Wrong, LayerNormArguments, testing::ValuesIn(wrong_in_both()),
                         name_of_wrong_argument<layer_norm_arguments>);
INSTANTIATE_TEST_SUITE_P(Wrong, LayerNormResidualArguments, testing::ValuesIn(wrong_with_residual()),
                         name_of_wrong_argument<layer_norm_arguments>);

TEST_P(LayerNormArguments, AreRefused) {
  layer_norm_arguments a;
  GetParam().spoil(a);
  expect_refusal("layer_norm", a.call(), GetParam().status, GetParam().message);
  a.output.expect_untouched();
}

TEST_P(LayerNormResidualArguments, AreRefused) {
  layer_norm_arguments a;
  GetParam().spoil(a);
  expect_refusal("layer_norm_residual_store_pre_ln_res", a.call_with_residual(), GetParam().status,
                 GetParam().message);
  a.output.expect_untouched();
  a.sum.expect_untouched();
}

TEST(LayerNorm, RefusesTooManyIrregularDimensions) {
  index_list sizes(DS_MAX_ROW_DIMS + 2, 2), strides;
  for (int64_t i = 0; i < DS_MAX_ROW_DIMS + 1; i++) strides.push_back(3 << (DS_MAX_ROW_DIMS + 1 - i));
  strides.push_back(1);
  for (size_t i = 0; i < strides.size() - 1; i++) strides[i] += static_cast<int64_t>(i); // none merges
  layer_norm_arguments a(DS_FLOAT16, sizes, strides);
  EXPECT_EQ(a.call(), DS_E_STRIDE);
  EXPECT_NE(std::string(ds_error_message()).find("input has more than 8 dimensions"), std::string::npos)
      << ds_error_message();
  a.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
