// The table of operators: a new one is a line here and a file that defines ds_<name>_operator.
#ifndef DS_OPERATORS_H
#define DS_OPERATORS_H

#include "ds_operator.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DS_OPERATORS(X)                                                                                      \
  X(layer_norm)                                                                                              \
  X(layer_norm_residual_store_pre_ln_res)                                                                    \
  X(gated_activation)                                                                                        \
  X(gated_linear)                                                                                            \
  X(nhwc_bias_add)                                                                                           \
  X(block_forward)

#define DS_DECLARE_OPERATOR(name) extern const ds_operator ds_##name##_operator;
DS_OPERATORS(DS_DECLARE_OPERATOR)
#undef DS_DECLARE_OPERATOR

#ifdef __cplusplus
}
#endif
#endif
