"""C functions that let code of AOTInductor call the plugin's operators without a proxy executor.

By default such code hands a custom operator to a "proxy executor", a C++ object that reads the operator's
arguments from a JSON file. Only C++ can make one. AOTInductor takes C functions instead
(torch._inductor.config.aot_inductor.custom_ops_to_c_shims): those written here go straight to the dispatcher,
through LibTorch's stable C ABI, become part of the compiled library, and so need nothing but the loaded
plugin.
"""

from __future__ import annotations

import torch
from torch._ops import OpOverload

_NAMESPACE = "ds_diffusers"
_DEVICES = ("cpu", "cuda")  # part of the names that AOTInductor calls
_STABLE_ABI_VERSION = 2 << 56 | 10 << 48  # of the conventions of torch 2.10

_DISPATCHER = "AOTITorchError torch_call_dispatcher(const char*, const char*, StableIValue*, uint64_t)"

# By the schema's type: the C parameter, and how it is put on the dispatcher's stack, which owns what lies
# there. A missing tensor is a null pointer, a present optional one lies behind a pointer from `new`.
_PARAMETERS = {
    "Tensor": ("AtenTensorHandle {0}", "new_reference({0})"),
    "Optional[Tensor]": ("AtenTensorHandle* {0}", "optional_reference({0})"),
    "int": ("int64_t {0}", "static_cast<StableIValue>({0})"),
    "float": ("double {0}", "bits_of({0})"),
}

_HELPERS = """
    const auto new_reference = [](AtenTensorHandle tensor) {
      AtenTensorHandle reference = nullptr;
      AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor, &reference));
      return reinterpret_cast<StableIValue>(reference);
    };
    [[maybe_unused]] const auto optional_reference = [&](AtenTensorHandle* tensor) {
      return tensor == nullptr ? 0 : reinterpret_cast<StableIValue>(new StableIValue(new_reference(*tensor)));
    };
    [[maybe_unused]] const auto bits_of = [](double number) {
      StableIValue bits = 0;
      std::memcpy(&bits, &number, sizeof bits);
      return bits;
    };"""


def c_shims() -> dict[OpOverload, list[str]]:
    """By operator, C++ definitions for custom_ops_to_c_shims. The library must be loaded."""
    prefix = f"{_NAMESPACE}::"
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith(prefix)]
    operators = [getattr(getattr(torch.ops, _NAMESPACE), name.removeprefix(prefix)).default for name in names]
    return {
        operator: [_DISPATCHER, *(_definition(operator, device) for device in _DEVICES)]
        for operator in operators
    }


def _definition(operator: OpOverload, device: str) -> str:
    schema = operator._schema
    parameters, values = [], []
    for argument in schema.arguments:
        parameter, value = _PARAMETERS[str(argument.type)]
        parameters.append(parameter.format(argument.name))
        values.append(value.format(argument.name))
    parameters += [f"AtenTensorHandle* result_{number}" for number in range(len(schema.returns))]
    results = "".join(
        f"\n    *result_{number} = reinterpret_cast<AtenTensorHandle>(stack[{number}]);"
        for number in range(len(schema.returns))
    )
    # AOTInductor puts "extern" in front. Hidden, as each compiled library has its own.
    return f"""
  __attribute__((visibility("hidden")))
  AOTITorchError aoti_torch_{device}_{schema.name.split("::")[1]}({", ".join(parameters)}) {{{_HELPERS}
    StableIValue stack[] = {{{", ".join(values)}}};
    const AOTITorchError error = torch_call_dispatcher("{schema.name}", "", stack, {_STABLE_ABI_VERSION}ull);
    if (error != AOTI_TORCH_SUCCESS) return error;{results}
    return AOTI_TORCH_SUCCESS;
  }}"""
