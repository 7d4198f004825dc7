#include "ds_call.h"
#include "ds_aten.h"
#include "ds_torch_cuda.h"
#include <inttypes.h>
#include <string.h>

static int is_tensor(ds_argument_kind kind) {
  return kind == DS_ARGUMENT_TENSOR || kind == DS_ARGUMENT_OPTIONAL_TENSOR;
}

// Takes ownership of everything on the stack. Never fails.
static void take(ds_call *call, const ds_operator *definition, const StableIValue *stack) {
  // Not the whole struct: it has room for many more arguments than most operators have.
  call->definition = definition;
  call->stack = stack;
  call->guard = NULL;
  call->context = (ds_context){0};
  for (int i = 0; i < DS_MAX_RESULTS; i++) call->results[i] = NULL;
  for (int i = 0; i < definition->argument_count; i++) {
    const ds_argument_kind kind = definition->arguments[i].kind;
    StableIValue value = stack[i];
    if (kind == DS_ARGUMENT_OPTIONAL_TENSOR && value != 0) value = ds_optional_take(value);
    call->inputs[i] = is_tensor(kind) ? (AtenTensorHandle)(uintptr_t)value : NULL;
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
  const ds_argument *argument = &call->definition->arguments[index];
  bool defined = false;
  DS_CHECK(DS_TORCH(aoti_torch_is_defined, (call->inputs[index], &defined)));
  if (defined) return DS_OK;
  if (argument->kind != DS_ARGUMENT_OPTIONAL_TENSOR)
    return ds_error(DS_E_NULL, DS_NAMESPACE "::%s: %s is None, must be a tensor", call->definition->name,
                    argument->name);
  ds_torch_release(&call->inputs[index]);
  return DS_OK;
}

static ds_status check_rank(const ds_call *call, int index, int64_t rank) {
  if (rank <= DS_MAX_RANK) return DS_OK;
  return ds_error(DS_E_SHAPE, DS_NAMESPACE "::%s: %s has rank %" PRId64 ", must be of rank %d or less",
                  call->definition->name, call->definition->arguments[index].name, rank, DS_MAX_RANK);
}

static ds_status describe_input(ds_call *call, int index) {
  const ds_argument *argument = &call->definition->arguments[index];
  ds_tensor *tensor = &call->tensors[index];
  DS_CHECK(check_defined(call, index));
  if (call->inputs[index] == NULL) return DS_OK;
  DS_CHECK(ds_torch_describe(call->inputs[index], tensor));
  DS_CHECK(check_rank(call, index, tensor->rank));
  if (has_layout(tensor, argument->layout)) return DS_OK;
  AtenTensorHandle contiguous = NULL;
  DS_CHECK(ds_aten_contiguous(call->inputs[index], &contiguous));
  ds_torch_release(&call->inputs[index]);
  call->inputs[index] = contiguous;
  return ds_torch_describe(contiguous, tensor);
}

static ds_status enter_device(ds_call *call) {
  call->context.parallel_for = ds_torch_parallel_for;
  if (call->tensors[0].device_type != DS_CUDA) return DS_OK;
  return ds_torch_cuda_enter(call->tensors[0].device_index, &call->guard, &call->context.stream,
                             &call->context.cuda);
}

static ds_status begin(ds_call *call) {
  if (aoti_torch_abi_version() < DS_TORCH_2_10)
    return ds_error(DS_E_UNSUPPORTED,
                    DS_NAMESPACE "::%s: torch is too old, must be 2.10 or newer: upgrade torch",
                    call->definition->name);
  for (int i = 0; i < call->definition->argument_count; i++)
    if (call->inputs[i] != NULL) DS_CHECK(describe_input(call, i));
  return enter_device(call);
}

// One tensor on meta makes the dispatcher choose the Meta kernel for all of them, which would hand out memory
// without values.
static ds_status check_on_meta(const ds_call *call, int index) {
  int32_t device_type = 0;
  DS_CHECK(DS_TORCH(aoti_torch_get_device_type, (call->inputs[index], &device_type)));
  if (device_type == aoti_torch_device_type_meta()) return DS_OK;
  return ds_error(DS_E_DEVICE, DS_NAMESPACE "::%s: %s is not on meta, must be on meta, as another tensor is",
                  call->definition->name, call->definition->arguments[index].name);
}

// As the operators check it, with their words.
static ds_status check_dtype(const ds_call *call, int index) {
  const ds_argument *arguments = call->definition->arguments;
  ds_dtype dtype, first;
  if (arguments[index].own_dtype) return DS_OK;
  DS_CHECK(ds_torch_dtype(call->inputs[index], &dtype));
  DS_CHECK(ds_torch_dtype(call->inputs[0], &first));
  if (ds_dtype_bytes(dtype) == 0)
    return ds_error(DS_E_DTYPE, DS_NAMESPACE "::%s: %s has dtype %s, must be float32, float16 or bfloat16",
                    call->definition->name, arguments[index].name, ds_dtype_name(dtype));
  if (dtype != first)
    return ds_error(DS_E_DTYPE, DS_NAMESPACE "::%s: %s has dtype %s, must be %s, the dtype of %s",
                    call->definition->name, arguments[index].name, ds_dtype_name(dtype), ds_dtype_name(first),
                    arguments[0].name);
  return DS_OK;
}

static ds_status check_meta_input(ds_call *call, int index) {
  int64_t rank = 0;
  DS_CHECK(check_defined(call, index));
  if (call->inputs[index] == NULL) return DS_OK;
  DS_CHECK(check_on_meta(call, index));
  DS_CHECK(DS_TORCH(aoti_torch_get_dim, (call->inputs[index], &rank)));
  DS_CHECK(check_rank(call, index, rank));
  return check_dtype(call, index);
}

// What can be known without sizes is checked here, so that a wrong call fails when it is traced.
static ds_status begin_meta(ds_call *call) {
  for (int i = 0; i < call->definition->argument_count; i++)
    if (call->inputs[i] != NULL) DS_CHECK(check_meta_input(call, i));
  return DS_OK;
}

static void end(ds_call *call, ds_status status, StableIValue *stack) {
  ds_torch_cuda_leave(&call->guard);
  for (int i = 0; i < call->definition->argument_count; i++) ds_torch_release(&call->inputs[i]);
  if (status == DS_OK) {
    for (int i = 0; i < call->definition->result_count; i++)
      stack[i] = (StableIValue)(uintptr_t)call->results[i];
    return;
  }
  for (int i = 0; i < DS_MAX_RESULTS; i++) ds_torch_release(&call->results[i]);
  aoti_torch_check(false, call->definition->name, __FILE__, __LINE__, ds_error_message());
}

void ds_call_run(const ds_operator *definition, StableIValue *stack) {
  ds_call call;
  take(&call, definition, stack);
  ds_status status = begin(&call);
  if (status == DS_OK) status = definition->run(&call);
  end(&call, status, stack);
}

void ds_call_run_meta(const ds_operator *definition, StableIValue *stack) {
  ds_call call;
  take(&call, definition, stack);
  ds_status status = begin_meta(&call);
  if (status == DS_OK) status = definition->meta(&call);
  end(&call, status, stack);
}

void ds_call_arguments(const ds_call *call, void *arguments) {
  for (int i = 0; i < call->definition->argument_count; i++) {
    const ds_argument *argument = &call->definition->arguments[i];
    char *field = (char *)arguments + argument->offset;
    if (is_tensor(argument->kind)) {
      const ds_tensor *tensor = call->inputs[i] == NULL ? NULL : &call->tensors[i];
      memcpy(field, &tensor, sizeof tensor);
    } else {
      // Integers and floating-point numbers are 8 bytes wide in the stack's slot as in the struct.
      memcpy(field, &call->stack[i], sizeof call->stack[i]);
    }
  }
}

// As torch makes contiguous strides: an empty dimension counts as one element.
static void write_default_strides(int32_t rank, const int64_t *sizes, int64_t *strides) {
  int64_t stride = 1;
  for (int32_t i = rank - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= sizes[i] > 1 ? sizes[i] : 1;
  }
}

ds_status ds_call_new_result(ds_call *call, int index, int32_t rank, const int64_t *sizes) {
  int64_t strides[DS_MAX_RANK];
  int32_t dtype_code = 0;
  write_default_strides(rank, sizes, strides);
  DS_CHECK(DS_TORCH(aoti_torch_get_dtype, (call->inputs[0], &dtype_code)));
  DS_CHECK(
      ds_torch_empty_strided(rank, sizes, strides, dtype_code, &call->tensors[0], &call->results[index]));
  return ds_torch_describe(call->results[index], &call->result_tensors[index]);
}

static int has_default_strides(const ds_tensor *tensor) {
  int64_t strides[DS_MAX_RANK];
  write_default_strides(tensor->rank, tensor->sizes, strides);
  for (int32_t i = 0; i < tensor->rank; i++)
    if (tensor->strides[i] != strides[i]) return 0;
  return 1;
}

ds_status ds_call_new_result_like(ds_call *call, int index) {
  const ds_tensor *first = &call->tensors[0];
  // torch.empty_like keeps any other strides, even where they don't matter.
  if (has_default_strides(first)) return ds_call_new_result(call, index, first->rank, first->sizes);
  DS_CHECK(ds_aten_empty_like(call->inputs[0], DS_PRESERVE_FORMAT, &call->results[index]));
  return ds_torch_describe(call->results[index], &call->result_tensors[index]);
}
