// The lists of kernels. Prototypes, the tables of both backends and the choice between them are made from
// them, so a new kernel is the header of its parameters and a line here.
#ifndef DS_KERNELS_H
#define DS_KERNELS_H

#include "ds_attention_params.h"
#include "ds_bias_add_params.h"
#include "ds_dequantize_params.h"
#include "ds_gated_activation_params.h"
#include "ds_gated_linear_params.h"
#include "ds_layer_norm_params.h"
#include "ds_quantized_linear_params.h"

// On every backend, for every parameters: ds_<name>_cpu and ds_<name>_cuda take a ds_<name>_params.
#define DS_KERNELS(X)                                                                                        \
  X(layer_norm)                                                                                              \
  X(gated_activation)                                                                                        \
  X(bias_add)                                                                                                \
  X(dequantize)

// In the CUDA module alone, for some parameters on some devices, where they are faster than what serves all
// others: ds_<name>_serves_cuda tells which, ds_<name>_cuda takes those.
#define DS_CUDA_SPECIAL_KERNELS(X)                                                                           \
  X(attention)                                                                                               \
  X(gated_linear)                                                                                            \
  X(quantized_linear)

#endif
