#include "ds_aten.h"

// operator new and operator delete of the C++ runtime that libtorch brings.
extern void *_Znwm(unsigned long bytes);
extern void _ZdlPv(void *memory);

static StableIValue from_handle(AtenTensorHandle tensor) {
  return (StableIValue)(uintptr_t)tensor;
}

static AtenTensorHandle to_handle(StableIValue value) {
  return (AtenTensorHandle)(uintptr_t)value;
}

ds_status ds_optional_new(StableIValue content, StableIValue *optional) {
  StableIValue *cell = NULL;
  if (ds_torch_recent.torch_new_stable_ivalue != NULL) {
    DS_CHECK(ds_from_torch(ds_torch_recent.torch_new_stable_ivalue(&cell), "torch_new_stable_ivalue"));
  } else {
    cell = _Znwm(sizeof *cell);
  }
  *cell = content;
  *optional = (StableIValue)(uintptr_t)cell;
  return DS_OK;
}

StableIValue ds_optional_take(StableIValue optional) {
  StableIValue *cell = (StableIValue *)(uintptr_t)optional;
  const StableIValue content = *cell;
  if (ds_torch_recent.torch_delete_stable_ivalue != NULL)
    (void)ds_torch_recent.torch_delete_stable_ivalue(cell);
  else
    _ZdlPv(cell);
  return content;
}

// Puts a second handle of `tensor` on the stack: the dispatcher consumes what it is given.
static ds_status push_tensor(AtenTensorHandle tensor, StableIValue *slot) {
  AtenTensorHandle copy = NULL;
  DS_CHECK(DS_TORCH(aoti_torch_new_tensor_handle, (tensor, &copy)));
  *slot = from_handle(copy);
  return DS_OK;
}

static void release_slot(StableIValue *slot) {
  AtenTensorHandle tensor = to_handle(*slot);
  ds_torch_release(&tensor);
  *slot = 0;
}

static ds_status call(const char *name, const char *overload, StableIValue *stack, AtenTensorHandle *result) {
  *result = NULL;
  DS_CHECK(ds_from_torch(torch_call_dispatcher(name, overload, stack, DS_TORCH_2_10), name));
  *result = to_handle(stack[0]);
  return DS_OK;
}

ds_status ds_aten_empty_like(AtenTensorHandle input, ds_memory_format format, AtenTensorHandle *result) {
  // self, dtype, layout, device, pin_memory, memory_format
  StableIValue stack[6] = {0};
  const int32_t code = format == DS_CONTIGUOUS_FORMAT ? aoti_torch_memory_format_contiguous_format()
                                                      : aoti_torch_memory_format_preserve_format();
  *result = NULL;
  DS_CHECK(ds_optional_new((StableIValue)code, &stack[5]));
  const ds_status status = push_tensor(input, &stack[0]);
  if (status != DS_OK) {
    (void)ds_optional_take(stack[5]);
    return status;
  }
  return call("aten::empty_like", "", stack, result);
}

ds_status ds_aten_contiguous(AtenTensorHandle input, AtenTensorHandle *result) {
  StableIValue stack[2] = {0, (StableIValue)aoti_torch_memory_format_contiguous_format()};
  *result = NULL;
  DS_CHECK(push_tensor(input, &stack[0]));
  return call("aten::contiguous", "", stack, result);
}

ds_status ds_aten_copy(AtenTensorHandle destination, AtenTensorHandle source) {
  // self, src, non_blocking
  StableIValue stack[3] = {0};
  AtenTensorHandle same = NULL;
  ds_status status = push_tensor(destination, &stack[0]);
  if (status == DS_OK) status = push_tensor(source, &stack[1]);
  if (status != DS_OK) {
    release_slot(&stack[0]);
    return status;
  }
  status = call("aten::copy_", "", stack, &same);
  ds_torch_release(&same);
  return status;
}

ds_status ds_aten_glu(AtenTensorHandle input, AtenTensorHandle *result) {
  StableIValue stack[2] = {0, (StableIValue)(int64_t)-1};
  *result = NULL;
  DS_CHECK(push_tensor(input, &stack[0]));
  return call("aten::glu", "", stack, result);
}

ds_status ds_aten_linear(AtenTensorHandle input, AtenTensorHandle weight, AtenTensorHandle *result) {
  // input, weight, bias: 0 stands for None
  StableIValue stack[3] = {0};
  *result = NULL;
  ds_status status = push_tensor(input, &stack[0]);
  if (status == DS_OK) status = push_tensor(weight, &stack[1]);
  if (status != DS_OK) {
    release_slot(&stack[0]);
    return status;
  }
  return call("aten::linear", "", stack, result);
}

ds_status ds_aten_transpose(AtenTensorHandle input, int64_t first, int64_t second, AtenTensorHandle *result) {
  StableIValue stack[3] = {0, (StableIValue)first, (StableIValue)second};
  *result = NULL;
  DS_CHECK(push_tensor(input, &stack[0]));
  return call("aten::transpose", "int", stack, result);
}

ds_status ds_aten_scaled_dot_product_attention(AtenTensorHandle query, AtenTensorHandle key,
                                               AtenTensorHandle value, AtenTensorHandle mask,
                                               AtenTensorHandle *result) {
  // query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa: 0 stands for 0.0, False and None
  StableIValue stack[8] = {0}, mask_content = 0;
  const AtenTensorHandle tensors[3] = {query, key, value};
  ds_status status = DS_OK;
  *result = NULL;
  for (int i = 0; i < 3 && status == DS_OK; i++) status = push_tensor(tensors[i], &stack[i]);
  if (status == DS_OK && mask != NULL) status = push_tensor(mask, &mask_content);
  if (status == DS_OK && mask != NULL) status = ds_optional_new(mask_content, &stack[3]);
  if (status != DS_OK) {
    release_slot(&mask_content);
    for (int i = 0; i < 3; i++) release_slot(&stack[i]);
    return status;
  }
  return call("aten::scaled_dot_product_attention", "", stack, result);
}
