// Ways to spoil the arguments of an operator, and what it must answer.
#ifndef DS_TESTS_WRONG_ARGUMENTS_H
#define DS_TESTS_WRONG_ARGUMENTS_H

#include "tensor.h"
#include <string>

namespace ds_tests {

// `Arguments` owns the tensors of one valid call.
template <typename Arguments>
struct wrong_argument {
  std::string name; // of the test
  std::function<void(Arguments &)> spoil;
  ds_status status;
  std::string message; // without "ds_diffusers::<op>: "
};

template <typename Arguments>
void PrintTo(const wrong_argument<Arguments> &wrong, std::ostream *stream) {
  *stream << wrong.name;
}

template <typename Arguments>
std::string name_of_wrong_argument(const testing::TestParamInfo<wrong_argument<Arguments>> &info) {
  return info.param.name;
}

template <typename Arguments>
using tensor_of = std::function<tensor &(Arguments &)>;

// What is wrong with any tensor argument: `reference` ("input", float16 on the CPU) is what it must be like.
// An output or a required input also cannot be missing.
template <typename Arguments>
std::vector<wrong_argument<Arguments>> wrong_tensor(const std::string &name, const tensor_of<Arguments> &get,
                                                    bool required, const std::string &reference) {
  std::vector<wrong_argument<Arguments>> all;
  const auto add = [&](const std::string &way, const std::function<void(tensor &)> &spoil, ds_status status,
                       const std::string &message) {
    all.push_back({name + "_" + way, [get, spoil](Arguments &arguments) { spoil(get(arguments)); }, status,
                   name + message});
  };
  if (required)
    add(
        "missing", [](tensor &t) { t.given = false; }, DS_E_NULL, " is None, must be a tensor");
  add(
      "without_memory", [](tensor &t) { t.data = nullptr; }, DS_E_NULL,
      " has no memory, must have its elements in memory");
  add(
      "on_unknown_device", [](tensor &t) { t.device_type = DS_DEVICE_OTHER; }, DS_E_DEVICE,
      " is on a device that is not supported, must be on the CPU or a CUDA device");
  for (const ds_dtype dtype : {DS_FLOAT64, DS_INT8, DS_INT64, DS_BOOL, DS_COMPLEX64, DS_DTYPE_OTHER}) {
    const std::string dtype_name = ds_dtype_name(dtype);
    add(
        "of_dtype_" + std::to_string(dtype), [dtype](tensor &t) { t.dtype = dtype; }, DS_E_DTYPE,
        " has dtype " + dtype_name + ", must be float32, float16 or bfloat16");
  }
  if (name == reference) return all;
  for (const ds_dtype dtype : {DS_FLOAT32, DS_BFLOAT16})
    add(
        std::string("of_another_dtype_") + ds_dtype_name(dtype), [dtype](tensor &t) { t.dtype = dtype; },
        DS_E_DTYPE,
        std::string(" has dtype ") + ds_dtype_name(dtype) + ", must be float16, the dtype of " + reference);
  add(
      "on_another_device",
      [](tensor &t) {
        t.device_type = DS_CUDA;
        t.device_index = 3;
      },
      DS_E_DEVICE, " is on cuda:3, must be on cpu, the device of " + reference);
  return all;
}

template <typename Arguments>
void append(std::vector<wrong_argument<Arguments>> &all, const std::vector<wrong_argument<Arguments>> &more) {
  all.insert(all.end(), more.begin(), more.end());
}

// A call's answer: the status, the whole message, and nothing written.
inline void expect_refusal(const std::string &op, ds_status result, ds_status status,
                           const std::string &message) {
  EXPECT_EQ(ds_status_name(result), std::string(ds_status_name(status)));
  EXPECT_EQ(ds_error_message(), "ds_diffusers::" + op + ": " + message);
}

} // namespace ds_tests

#endif
