// gated_linear: results in one step and in two, and every check.
#include "ds_gated_linear.h"
#include "plain_services.h"
#include "wrong_arguments.h"

namespace ds_tests {
namespace {

index_list with_last(index_list sizes, int64_t last) {
  if (!sizes.empty()) sizes.back() = last;
  return sizes;
}

struct gated_linear_arguments {
  explicit gated_linear_arguments(ds_dtype dtype = DS_FLOAT16, const index_list &sizes = {2, 3, 5},
                                  int64_t cols = 4)
      : gated_linear_arguments(dtype, sizes, contiguous_strides(sizes), cols, {sizes.back(), 1}) {}

  gated_linear_arguments(ds_dtype dtype, const index_list &sizes, const index_list &strides, int64_t cols,
                         const index_list &weight_strides)
      : input(dtype, sizes, strides, 1), weight(dtype, {2 * cols, sizes.back()}, weight_strides, 2),
        bias(dtype, {2 * cols}, 3), output(dtype, with_last(sizes, cols)) {}

  ds_status call(const ds_services &services) {
    return ds_gated_linear(nullptr, &services, input.get(), weight.get(), bias.get(), activation_type,
                           output.get());
  }

  tensor input, weight, bias, output;
  int64_t activation_type = DS_ACTIVATION_GATED_GELU;
};

double product(const gated_linear_arguments &a, index_list index, int64_t col) {
  double sum = a.bias.given ? a.bias.at({col}) : 0.0;
  for (int64_t i = 0; i < a.weight.sizes[1]; i++) {
    index.back() = i;
    sum += a.input.at(index) * a.weight.at({col, i});
  }
  return sum;
}

void expect_result(const gated_linear_arguments &a) {
  const int64_t cols = a.output.sizes.back();
  for_each_index(a.output.sizes, [&](const index_list &index) {
    const double value = product(a, index, index.back()), gate = product(a, index, cols + index.back());
    const double activated = a.activation_type == DS_ACTIVATION_GATED_SILU
                                 ? gate / (1 + std::exp(-gate))
                                 : gate * 0.5 * std::erfc(-gate / std::sqrt(2.0));
    ASSERT_NEAR(a.output.at(index), value * activated, 6 * unit_at(a.output.dtype, 4.0));
  });
}

// In one step, in two because the service does not take the parameters, and in two for lack of a service.
class GatedLinear : public testing::TestWithParam<int> {
protected:
  bool in_one_step() const { return GetParam() == 1; }

  void run_and_check(gated_linear_arguments &a) {
    plain_services services(true, GetParam() != 3);
    services.serves_gated_linear = in_one_step();
    ASSERT_EQ(a.call(services.table), DS_OK) << ds_error_message();
    expect_result(a);
    a.output.expect_untouched_around();
    EXPECT_EQ(services.gated_linears.size(), in_one_step() ? 1u : 0u);
    EXPECT_EQ(services.linears.size(), in_one_step() ? 0u : 1u);
    EXPECT_EQ(services.allocations, in_one_step() ? 0 : 1);
  }
};

INSTANTIATE_TEST_SUITE_P(Steps, GatedLinear, testing::Values(1, 2, 3));

TEST_P(GatedLinear, TakesAnyRankDtypeAndType) {
  for (const ds_dtype dtype : {DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16})
    for (const int64_t type : {DS_ACTIVATION_GATED_GELU, DS_ACTIVATION_GATED_SILU})
      for (const bool bias : {false, true})
        for (const index_list &sizes : {index_list{14}, {3, 1}, {2, 3, 14}, {2, 3, 2, 5}}) {
          gated_linear_arguments a(dtype, sizes, 7);
          a.activation_type = type;
          a.bias.given = bias;
          run_and_check(a);
        }
}

TEST_P(GatedLinear, TakesRowsAtAnyStride) {
  for (const index_list &strides : {index_list{15, 5, 1}, {27, 9, 1}, {0, 0, 1}})
    for (const int64_t weight_stride : {5, 8, 0}) {
      gated_linear_arguments a(DS_FLOAT32, {2, 3, 5}, strides, 4, {weight_stride, 1});
      run_and_check(a);
    }
  gated_linear_arguments column(DS_FLOAT32, {2, 3, 1}, {27, 9, 4}, 4, {6, 3});
  run_and_check(column);
}

TEST_P(GatedLinear, EmptyResultsCallNoService) {
  for (const auto &[sizes, cols] : {std::pair{index_list{0, 5}, 4}, {{2, 0, 5}, 4}, {{3, 5}, 0}, {{5}, 0}}) {
    gated_linear_arguments a(DS_FLOAT32, sizes, cols);
    plain_services services(true, GetParam() != 3);
    EXPECT_EQ(a.call(services.table), DS_OK) << ds_error_message();
    EXPECT_EQ(services.calls, 0);
    a.output.expect_untouched();
  }
}

TEST_P(GatedLinear, AFailingServiceEndsTheCall) {
  for (int failing = 1; failing <= (in_one_step() ? 1 : 2); failing++) {
    gated_linear_arguments a;
    plain_services services(true, GetParam() != 3);
    services.serves_gated_linear = in_one_step();
    services.fail_at = failing;
    EXPECT_EQ(a.call(services.table), DS_E_SERVICE);
    EXPECT_EQ(ds_error_message(), "service call " + std::to_string(failing) + " fails");
    EXPECT_EQ(services.calls, failing);
  }
}

TEST(GatedLinearParameters, AreThoseOfTheArguments) {
  gated_linear_arguments a(DS_BFLOAT16, {2, 3, 5}, {27, 9, 1}, 4, {6, 1});
  a.activation_type = DS_ACTIVATION_GATED_SILU;
  plain_services services(true, true);
  ASSERT_EQ(a.call(services.table), DS_OK) << ds_error_message();
  const ds_gated_linear_params &params = services.gated_linears.at(0);
  EXPECT_EQ(params.dtype, DS_BFLOAT16);
  EXPECT_EQ(params.rows, 6);
  EXPECT_EQ(params.in_features, 5);
  EXPECT_EQ(params.cols, 4);
  EXPECT_EQ(params.input_row_stride, 9);
  EXPECT_EQ(params.weight_row_stride, 6);
  EXPECT_EQ(params.bias, a.bias.data);
  EXPECT_EQ(params.activation_type, DS_ACTIVATION_GATED_SILU);
  EXPECT_EQ(params.output_row_stride, 4);
}

TEST(GatedLinearParameters, MayAskForMoreMemoryThanThereIs) {
  gated_linear_arguments a(DS_FLOAT16, {3, 1}, 4);
  a.input.sizes[0] = a.output.sizes[0] = int64_t{1} << 60;
  a.input.strides[0] = 0;
  const plain_services services(true);
  expect_refusal("gated_linear", a.call(services.table), DS_E_MEMORY,
                 "the sizes of its arguments ask for more memory than there can be");
}

TEST(GatedLinearSizes, AreThoseOfTheResult) {
  gated_linear_arguments a;
  int64_t sizes[3];
  ASSERT_EQ(ds_gated_linear_sizes(a.input.get(), a.weight.get(), sizes), DS_OK);
  EXPECT_EQ(index_list(sizes, sizes + 3), (index_list{2, 3, 4}));
  a.weight.sizes = {7, 5};
  EXPECT_EQ(ds_gated_linear_sizes(a.input.get(), a.weight.get(), sizes), DS_E_SHAPE);
  a.input.sizes = a.input.strides = {};
  EXPECT_EQ(ds_gated_linear_sizes(a.input.get(), a.weight.get(), sizes), DS_E_SHAPE);
  EXPECT_EQ(ds_gated_linear_sizes(nullptr, a.weight.get(), sizes), DS_E_NULL);
}

using wrong = wrong_argument<gated_linear_arguments>;

tensor &input_of(gated_linear_arguments &a) {
  return a.input;
}
tensor &weight_of(gated_linear_arguments &a) {
  return a.weight;
}
tensor &bias_of(gated_linear_arguments &a) {
  return a.bias;
}
tensor &output_of(gated_linear_arguments &a) {
  return a.output;
}

wrong wrong_shape(const std::string &name, tensor &(*get)(gated_linear_arguments &), const index_list &shape,
                  const std::string &message) {
  std::string sizes;
  for (const int64_t size : shape) sizes += "_" + std::to_string(size);
  return {name + "_of_shape" + sizes,
          [get, shape](gated_linear_arguments &a) {
            get(a).sizes = shape;
            get(a).strides = contiguous_strides(shape);
          },
          DS_E_SHAPE, name + " has shape " + message};
}

std::vector<wrong> wrong_shapes() {
  const std::string some = ", must be of rank 1 or more with a last dimension of 1 or more";
  const std::string matrix = ", must be [N, 5], N even, with the size of input's last dimension";
  const std::string rows = ", must be [8], the number of weight's rows", result = ", must be [2, 3, 4]";
  return {wrong_shape("input", input_of, {}, "[]" + some),
          wrong_shape("input", input_of, {3, 0}, "[3, 0]" + some),
          wrong_shape("weight", weight_of, {7, 5}, "[7, 5]" + matrix),
          wrong_shape("weight", weight_of, {8, 6}, "[8, 6]" + matrix),
          wrong_shape("weight", weight_of, {5}, "[5]" + matrix),
          wrong_shape("weight", weight_of, {1, 8, 5}, "[1, 8, 5]" + matrix),
          wrong_shape("bias", bias_of, {4}, "[4]" + rows),
          wrong_shape("bias", bias_of, {2, 4}, "[2, 4]" + rows),
          wrong_shape("output", output_of, {2, 3, 8}, "[2, 3, 8]" + result),
          wrong_shape("output", output_of, {6, 4}, "[6, 4]" + result)};
}

std::vector<wrong> wrong_strides() {
  const auto strides = [](const std::string &name, tensor &(*get)(gated_linear_arguments &),
                          const index_list &changed, const std::string &message) {
    return wrong{name + "_strides", [=](gated_linear_arguments &a) { get(a).strides = changed; }, DS_E_STRIDE,
                 name + message};
  };
  return {strides("input", input_of, {1, 10, 2},
                  " has irregular strides, must have its rows at one stride and a contiguous last dimension"),
          strides("weight", weight_of, {1, 8}, " has stride 8 in its last dimension, must be 1"),
          strides("bias", bias_of, {3}, " has stride 3, must be contiguous"),
          strides("output", output_of, {1, 2, 6}, " is not contiguous, must be contiguous")};
}

std::vector<wrong> all_wrong() {
  std::vector<wrong> all = wrong_tensor<gated_linear_arguments>("input", input_of, true, "input");
  append(all, wrong_tensor<gated_linear_arguments>("weight", weight_of, true, "input"));
  append(all, wrong_tensor<gated_linear_arguments>("bias", bias_of, false, "input"));
  append(all, wrong_tensor<gated_linear_arguments>("output", output_of, true, "input"));
  append(all, wrong_shapes());
  append(all, wrong_strides());
  for (const int64_t type :
       {int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{2}, int64_t{5}, (int64_t{1} << 32) + 3})
    all.push_back(
        {"activation_type_" + std::to_string(all.size()),
         [type](gated_linear_arguments &a) { a.activation_type = type; }, DS_E_VALUE,
         "activation_type is " + std::to_string(type) + ", must be 3 (GATED_GELU) or 4 (GATED_SILU)"});
  return all;
}

class GatedLinearArguments : public testing::TestWithParam<wrong> {};

INSTANTIATE_TEST_SUITE_P(Wrong, GatedLinearArguments, testing::ValuesIn(all_wrong()),
                         name_of_wrong_argument<gated_linear_arguments>);

TEST_P(GatedLinearArguments, AreRefused) {
  gated_linear_arguments a;
  plain_services services(true, true);
  GetParam().spoil(a);
  expect_refusal("gated_linear", a.call(services.table), GetParam().status, GetParam().message);
  EXPECT_EQ(services.calls, 0);
  a.output.expect_untouched();
}

} // namespace
} // namespace ds_tests
