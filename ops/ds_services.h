// What operators of several steps need from outside the library: scratch memory, matrix products, attention.
// The host fills the table (ATen, cuBLASLt, or plain C in a test); the operator never asks who did.
#ifndef DS_SERVICES_H
#define DS_SERVICES_H

#include "ds_attention_params.h"
#include "ds_gated_linear_params.h"
#include "ds_linear_params.h"
#include "ds_quantized_linear_params.h"
#include "ds_tensor.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DS_SCRATCH_ALIGNMENT 256 // bytes; what cuBLASLt's workspace and the widest vectors ask for

// All work goes to the stream and the device of the call. Memory handed out lives until the call of the
// operator ends.
typedef struct ds_services {
  void *host; // first argument of every function

  // `bytes` > 0 of scratch memory on the call's device, aligned to DS_SCRATCH_ALIGNMENT. Called once for each
  // operator call.
  ds_status (*allocate)(void *host, size_t bytes, void **memory);

  // output = input · weightᵀ + bias + residual. residual is only given where linear_adds_residual is set.
  // More of a workspace than linear_workspace_bytes (0: any) would not be used.
  ds_status (*linear)(void *host, const ds_linear_params *params);
  int linear_adds_residual;
  int linear_takes_quantized; // a quantised weight with its scale
  size_t linear_workspace_bytes;

  // Writes params->output and its address to *result; or, where the host has the result elsewhere, that
  // address: of [batch, query_tokens, heads · head_size], contiguous, valid until the next call of attention
  // or the end of the operator's call.
  ds_status (*attention)(void *host, const ds_attention_params *params, const void **result);

  // A linear with the gated activation of its result in one step, for the parameters that
  // gated_linear_serves says yes to. It does not look at the addresses of input and output, which may not be
  // known yet and are then aligned to DS_SCRATCH_ALIGNMENT. NULL, both: for none.
  int (*gated_linear_serves)(void *host, const ds_gated_linear_params *params);
  ds_status (*gated_linear)(void *host, const ds_gated_linear_params *params);

  // In the same way, a linear that reads an int8 weight itself, with the gated activation of its result or
  // without. quantized_linear_serves does not look at the addresses of input, residual and output.
  int (*quantized_linear_serves)(void *host, const ds_quantized_linear_params *params);
  ds_status (*quantized_linear)(void *host, const ds_quantized_linear_params *params);

  // Runs work(argument), which enqueues on the context's stream what the key's bytes decide, whatever the
  // memory that they name holds. The host may keep what was enqueued and enqueue it again in place of work,
  // when the key comes again. NULL: the operator runs its work itself.
  ds_status (*enqueue)(void *host, const void *key, size_t key_bytes, ds_status (*work)(void *argument),
                       void *argument);
} ds_services;

#ifdef __cplusplus
}
#endif
#endif
