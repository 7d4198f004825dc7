// Cases of the operators with their operands on the device.
#ifndef DS_TESTS_CUDA_CASES_H
#define DS_TESTS_CUDA_CASES_H

#include "activation_errors.h"
#include "bias_add_case.h"
#include "cuda_kernel_test.h"
#include "layer_norm_case.h"

namespace ds_tests {

struct cuda_layer_norm_case : layer_norm_case {
  cuda_layer_norm_case(ds_dtype type, const layer_norm_options &chosen)
      : layer_norm_case(type, chosen), copies({&input, &residual, &bias, &gamma, &beta, &output, &sum}) {
    params.input = copies.at(params.input);
    params.residual = copies.at(params.residual);
    params.bias = copies.at(params.bias);
    params.gamma = copies.at(params.gamma);
    params.beta = copies.at(params.beta);
    params.output = copies.at(params.output);
    params.sum = copies.at(params.sum);
  }
  device_copies copies;
};

struct cuda_gated_activation_case : gated_activation_case {
  cuda_gated_activation_case(ds_dtype type, const gated_activation_options &chosen)
      : gated_activation_case(type, chosen), copies({&input, &bias, &output}) {
    options.activation_error = type == DS_FLOAT32 ? float32_activation_error : fast_activation_error;
    params.input = copies.at(params.input);
    params.bias = copies.at(params.bias);
    params.output = copies.at(params.output);
  }
  device_copies copies;
};

struct cuda_bias_add_case : bias_add_case {
  cuda_bias_add_case(ds_dtype type, const bias_add_options &chosen)
      : bias_add_case(type, chosen), copies({&input, &other, &bias, &other_bias, &output}) {
    params.input = copies.at(params.input);
    params.other = copies.at(params.other);
    params.bias = copies.at(params.bias);
    params.other_bias = copies.at(params.other_bias);
    params.output = copies.at(params.output);
  }
  device_copies copies;
};

// Column counts of the host tests, and those around what CUDA blocks hold.
inline std::vector<int64_t> cuda_cols() {
  std::vector<int64_t> all = interesting_cols();
  all.insert(all.end(),
             {40, 319, 321, 639, 641, 1279, 1281, 2561, 5120, 8192, 14432, 16384, 16385, 20480, 20488});
  return all;
}

} // namespace ds_tests

#endif
