// Compiles only where the C host declares each function as torch's own headers do. Those come first: a
// function that is declared once more, otherwise, is an error.
#include <torch/csrc/inductor/aoti_runtime/interface.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include "aotinductor_interface.h"
#include <type_traits>

#define DS_SAME_TYPE(name, arguments)                                                                        \
  static_assert(std::is_same_v<decltype(&AOTInductorModelContainer##name), AOTIRuntimeError(*) arguments>,   \
                "AOTInductorModelContainer" #name " differs from torch's declaration");
DS_MODEL_CONTAINER(DS_SAME_TYPE)
