// How far the activations of CUDA kernels may be from the exact ones.
#ifndef DS_TESTS_ACTIVATION_ERRORS_H
#define DS_TESTS_ACTIVATION_ERRORS_H

#include "gated_activation_case.h"

namespace ds_tests {

// Those of ds_gated_activations.cuh, for results of 16 bits: a relative error, and beyond -7 nothing is left
// of the normal distribution's 1.3e-12.
inline double fast_activation_error(ds_activation_type type, double x) {
  if (type == DS_ACTIVATION_GATED_SILU) return 1e-6 * std::abs(silu_reference(x)) + 2e-36;
  return 1.5e-5 * std::abs(gelu_reference(-std::abs(x))) +
         4 * float32_rounding * std::abs(gelu_reference(x)) + (x < -7 ? 1.3e-12 * -x : 0);
}

// Those of float32. As in PyTorch, GELU's 1 + erf has the rounding of numbers around 1, however small it is.
inline double float32_activation_error(ds_activation_type type, double x) {
  return type == DS_ACTIVATION_GATED_GELU ? 3 * float32_rounding * std::abs(x) : 0;
}

} // namespace ds_tests

#endif
