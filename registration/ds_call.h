// One call of an operator from torch's dispatcher: takes the arguments off the stack, makes the results, and
// at the end releases everything and puts the results, or the error, where they belong. An operator's own
// functions only say what is special about it.
#ifndef DS_CALL_H
#define DS_CALL_H

#include "ds_context.h"
#include "ds_operator.h"
#include "ds_torch.h"

#define DS_MAX_RANK 64 // of an argument: torch's own functions take no more either

typedef struct ds_call {
  const ds_operator *definition;
  const StableIValue *stack;
  AtenTensorHandle inputs[DS_MAX_ARGUMENTS]; // owned, by argument; NULL for None and for other kinds
  ds_tensor tensors[DS_MAX_ARGUMENTS];       // their descriptions
  AtenTensorHandle results[DS_MAX_RESULTS];  // owned
  ds_tensor result_tensors[DS_MAX_RESULTS];
  CUDAGuardHandle guard;
  ds_context context;
} ds_call;

// The boxed kernel of an operator for the CPU and CUDA: describes every tensor in the layout that it must
// have, enters the first one's device and its current stream, and runs. At the end releases arguments and
// guard, and puts the results on the stack or, after a failure, releases them too and throws a C++ exception
// with ds_error_message().
void ds_call_run(const ds_operator *definition, StableIValue *stack);

// The boxed kernel for "meta", which reads no sizes: checks that every tensor is there, is a meta tensor, and
// is of a right dtype, and no more.
void ds_call_run_meta(const ds_operator *definition, StableIValue *stack);

// For an operator's `run`: fills its struct of arguments, by their offsets.
void ds_call_arguments(const ds_call *call, void *arguments);

// Makes result `index` contiguous, of `sizes`, with the dtype and device of the first argument.
ds_status ds_call_new_result(ds_call *call, int index, int32_t rank, const int64_t *sizes);

// Makes result `index` like the first argument, memory format included, as torch.empty_like does.
ds_status ds_call_new_result_like(ds_call *call, int index);

#endif
