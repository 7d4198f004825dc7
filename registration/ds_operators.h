// The operators as torch sees them: one row each, and the boxed functions behind it.
#ifndef DS_OPERATORS_H
#define DS_OPERATORS_H

#include "ds_torch_shim.h"

// A boxed kernel: arguments on the stack from slot 0, replaced by the results.
typedef void (*ds_boxed_fn)(StableIValue *stack, uint64_t argument_count, uint64_t result_count);

typedef struct ds_operator {
  const char *name;   // "layer_norm"
  const char *schema; // name, arguments and results, as torch.library takes it
  ds_boxed_fn run;    // CPU and CUDA
  ds_boxed_fn meta;   // shapes alone, sizes never read
} ds_operator;

// Each is defined beside its boxed functions and listed in ds_library.c.
extern const ds_operator ds_layer_norm_operator;
extern const ds_operator ds_layer_norm_residual_store_pre_ln_res_operator;
extern const ds_operator ds_gated_activation_operator;
extern const ds_operator ds_nhwc_bias_add_operator;
extern const ds_operator ds_block_forward_operator;

#endif
