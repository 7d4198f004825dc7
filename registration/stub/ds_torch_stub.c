// Names without code: the linker records libtorch_cpu.so and these symbols, and at load time the libtorch
// that is in the process provides them. The stub itself is never loaded.
#include "../ds_torch_shim.h"

#define DS_DEFINE_STUB(since, return_type, name, arguments)                                                  \
  return_type name arguments {                                                                               \
    __builtin_trap();                                                                                        \
  }
DS_TORCH_SHIM(DS_DEFINE_STUB)

// C++'s heap functions, which the optional values of a stack are made with, come with libtorch's C++ runtime.
void *_Znwm(unsigned long bytes);
void *_Znwm(unsigned long bytes) {
  (void)bytes;
  __builtin_trap();
}
void _ZdlPv(void *memory);
void _ZdlPv(void *memory) {
  (void)memory;
  __builtin_trap();
}
