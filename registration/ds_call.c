#include "ds_call.h"
#include "ds_aten.h"
#include "ds_torch_cuda.h"
#include <string.h>

// Takes ownership of everything on the stack. Never fails.
static void take(ds_call *call, const ds_signature *signature, StableIValue *stack) {
  memset(call, 0, sizeof *call);
  call->signature = signature;
  for (int i = 0; i < signature->argument_count; i++) {
    const ds_argument *argument = &signature->arguments[i];
    if (argument->kind != DS_ARGUMENT_TENSOR) continue;
    StableIValue value = stack[i];
    if (argument->optional && value != 0) value = ds_optional_take(value);
    call->inputs[i] = (AtenTensorHandle)(uintptr_t)value;
  }
}

static int has_layout(const ds_tensor *tensor, ds_argument_layout layout) {
  if (layout == DS_LAYOUT_ANY || ds_tensor_numel(tensor) == 0 || ds_tensor_is_contiguous(tensor)) return 1;
  if (layout == DS_LAYOUT_CONTIGUOUS) return 0;
  ds_rows rows;
  if (ds_tensor_rows("", tensor, -1, &rows) != DS_OK) return 0;
  return layout == DS_LAYOUT_ROWS || (rows.dims == 1 && rows.col_stride == 1);
}

// None where the schema says Tensor arrives as an undefined tensor, and C++ callers pass one for an optional
// one's absence: such an input is released.
static ds_status check_defined(ds_call *call, int index) {
  const ds_argument *argument = &call->signature->arguments[index];
  bool defined = false;
  DS_CHECK(DS_TORCH(aoti_torch_is_defined, (call->inputs[index], &defined)));
  if (defined) return DS_OK;
  if (!argument->optional)
    return ds_error(DS_E_NULL, "%s: %s is None, must be a tensor", call->signature->op, argument->name);
  ds_torch_release(&call->inputs[index]);
  return DS_OK;
}

static ds_status describe_input(ds_call *call, int index) {
  const ds_argument *argument = &call->signature->arguments[index];
  ds_tensor *tensor = &call->tensors[index];
  DS_CHECK(check_defined(call, index));
  if (call->inputs[index] == NULL) return DS_OK;
  DS_CHECK(ds_torch_describe(call->inputs[index], tensor));
  if (tensor->rank > DS_MAX_RANK)
    return ds_error(DS_E_SHAPE, "%s: %s has rank %d, must be of rank %d or less", call->signature->op,
                    argument->name, tensor->rank, DS_MAX_RANK);
  if (has_layout(tensor, argument->layout)) return DS_OK;
  AtenTensorHandle contiguous = NULL;
  DS_CHECK(ds_aten_contiguous(call->inputs[index], &contiguous));
  ds_torch_release(&call->inputs[index]);
  call->inputs[index] = contiguous;
  return ds_torch_describe(contiguous, tensor);
}

static ds_status unpack(ds_call *call, const StableIValue *stack, void *arguments) {
  for (int i = 0; i < call->signature->argument_count; i++) {
    const ds_argument *argument = &call->signature->arguments[i];
    char *field = (char *)arguments + argument->offset;
    if (argument->kind == DS_ARGUMENT_TENSOR) {
      if (call->inputs[i] != NULL) DS_CHECK(describe_input(call, i));
      const ds_tensor *tensor = call->inputs[i] == NULL ? NULL : &call->tensors[i];
      memcpy(field, &tensor, sizeof tensor);
    } else {
      // Integers and floating-point numbers are 8 bytes wide in the stack's slot as in the struct.
      memcpy(field, &stack[i], sizeof stack[i]);
    }
  }
  return DS_OK;
}

static ds_status enter_device(ds_call *call) {
  call->context.parallel_for = ds_torch_parallel_for;
  if (call->tensors[0].device_type != DS_CUDA) return DS_OK;
  return ds_torch_cuda_enter(call->tensors[0].device_index, &call->guard, &call->context.stream,
                             &call->context.cuda);
}

ds_status ds_call_begin(ds_call *call, const ds_signature *signature, StableIValue *stack, void *arguments) {
  take(call, signature, stack);
  if (aoti_torch_abi_version() < DS_TORCH_2_10)
    return ds_error(DS_E_UNSUPPORTED, "%s: torch is too old, must be 2.10 or newer: upgrade torch",
                    signature->op);
  DS_CHECK(unpack(call, stack, arguments));
  return enter_device(call);
}

// One tensor on meta makes the dispatcher choose the Meta kernel for all of them, which would hand out memory
// without values.
static ds_status check_on_meta(ds_call *call, int index) {
  int32_t device_type = 0;
  DS_CHECK(check_defined(call, index));
  if (call->inputs[index] == NULL) return DS_OK;
  DS_CHECK(DS_TORCH(aoti_torch_get_device_type, (call->inputs[index], &device_type)));
  if (device_type == aoti_torch_device_type_meta()) return DS_OK;
  return ds_error(DS_E_DEVICE, "%s: %s is not on meta, must be on meta, as another tensor is",
                  call->signature->op, call->signature->arguments[index].name);
}

ds_status ds_call_begin_meta(ds_call *call, const ds_signature *signature, StableIValue *stack) {
  take(call, signature, stack);
  for (int i = 0; i < signature->argument_count; i++)
    if (call->inputs[i] != NULL) DS_CHECK(check_on_meta(call, i));
  return DS_OK;
}

// Whether the strides are exactly those that ds_call_new_result gives; torch.empty_like keeps any others,
// even where they don't matter.
static int has_default_strides(const ds_tensor *tensor) {
  int64_t stride = 1;
  for (int32_t i = tensor->rank - 1; i >= 0; i--) {
    if (tensor->strides[i] != stride) return 0;
    stride *= tensor->sizes[i] > 1 ? tensor->sizes[i] : 1;
  }
  return 1;
}

ds_status ds_call_new_result(ds_call *call, int index, int32_t rank, const int64_t *sizes) {
  int64_t strides[DS_MAX_RANK];
  // As torch makes contiguous strides: an empty dimension counts as one element.
  int64_t stride = 1;
  for (int32_t i = rank - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= sizes[i] > 1 ? sizes[i] : 1;
  }
  int32_t dtype_code = 0;
  DS_CHECK(DS_TORCH(aoti_torch_get_dtype, (call->inputs[0], &dtype_code)));
  DS_CHECK(
      ds_torch_empty_strided(rank, sizes, strides, dtype_code, &call->tensors[0], &call->results[index]));
  return ds_torch_describe(call->results[index], &call->result_tensors[index]);
}

ds_status ds_call_new_result_like(ds_call *call, int index) {
  const ds_tensor *first = &call->tensors[0];
  if (has_default_strides(first)) return ds_call_new_result(call, index, first->rank, first->sizes);
  DS_CHECK(ds_aten_empty_like(call->inputs[0], DS_PRESERVE_FORMAT, &call->results[index]));
  return ds_torch_describe(call->results[index], &call->result_tensors[index]);
}

void ds_call_end(ds_call *call, ds_status status, StableIValue *stack) {
  ds_torch_cuda_leave(&call->guard);
  for (int i = 0; i < call->signature->argument_count; i++) ds_torch_release(&call->inputs[i]);
  if (status == DS_OK) {
    for (int i = 0; i < call->signature->result_count; i++)
      stack[i] = (StableIValue)(uintptr_t)call->results[i];
    return;
  }
  for (int i = 0; i < DS_MAX_RESULTS; i++) ds_torch_release(&call->results[i]);
  aoti_torch_check(false, call->signature->op, __FILE__, __LINE__, ds_error_message());
}
