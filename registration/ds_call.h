// One call of an operator from torch's dispatcher: takes the arguments off the stack, makes the results, and
// at the end releases everything and puts the results, or the error, where they belong. An operator's entry
// only says what is special about it.
#ifndef DS_CALL_H
#define DS_CALL_H

#include "ds_context.h"
#include "ds_torch.h"

#define DS_MAX_ARGUMENTS 40
#define DS_MAX_RESULTS 2
#define DS_MAX_RANK 64 // of an argument: torch's own functions take no more either

typedef enum ds_argument_kind {
  DS_ARGUMENT_TENSOR, // unpacked as const ds_tensor *; NULL for None
  DS_ARGUMENT_INT,    // unpacked as int64_t
  DS_ARGUMENT_FLOAT   // unpacked as double
} ds_argument_kind;

// The memory layout that the operator's contract asks for. A tensor that lies otherwise is replaced by a
// contiguous copy.
typedef enum ds_argument_layout {
  DS_LAYOUT_ANY,          // any strides
  DS_LAYOUT_ROWS,         // any that fits ds_rows: nearly all
  DS_LAYOUT_REGULAR_ROWS, // rows at one stride, contiguous last dimension
  DS_LAYOUT_CONTIGUOUS
} ds_argument_layout;

typedef struct ds_argument {
  const char *name;
  size_t offset; // of the field in the operator's struct of arguments
  ds_argument_kind kind;
  ds_argument_layout layout; // of a tensor
  int optional;              // the schema says Tensor?
} ds_argument;

typedef struct ds_signature {
  const char *op; // "ds_diffusers::layer_norm"
  const ds_argument *arguments;
  int argument_count;
  int result_count;
} ds_signature;

typedef struct ds_call {
  const ds_signature *signature;
  AtenTensorHandle inputs[DS_MAX_ARGUMENTS]; // owned, by argument; NULL for None and for other kinds
  ds_tensor tensors[DS_MAX_ARGUMENTS];       // their descriptions
  AtenTensorHandle results[DS_MAX_RESULTS];  // owned
  ds_tensor result_tensors[DS_MAX_RESULTS];
  CUDAGuardHandle guard;
  ds_context context;
} ds_call;

// Takes the stack for a Meta kernel, which reads no sizes: checks that every tensor is there and is a meta
// tensor, and no more.
ds_status ds_call_begin_meta(ds_call *call, const ds_signature *signature, StableIValue *stack);

// Takes the stack, describes every tensor in the layout that it must have, fills `arguments`, and makes the
// first tensor's device and its current stream those of call->context.
ds_status ds_call_begin(ds_call *call, const ds_signature *signature, StableIValue *stack, void *arguments);

// Makes result `index` contiguous, of `sizes`, with the dtype and device of the first argument.
ds_status ds_call_new_result(ds_call *call, int index, int32_t rank, const int64_t *sizes);

// Makes result `index` like the first argument, memory format included, as torch.empty_like does.
ds_status ds_call_new_result_like(ds_call *call, int index);

// Releases inputs and guard. On success moves the results to the stack; after a failure releases them too and
// throws a C++ exception with ds_error_message(): nothing may be owned by the caller then.
void ds_call_end(ds_call *call, ds_status status, StableIValue *stack);

#endif
