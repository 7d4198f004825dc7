// Registers the operators with torch when the library is loaded.
#include "ds_call.h"
#include "ds_operators.h"
#include "ds_schema.h"

// A boxed kernel: arguments on the stack from slot 0, replaced by the results.
typedef void (*boxed_kernel)(StableIValue *stack, uint64_t argument_count, uint64_t result_count);

#define DS_DEFINE_BOXED(name)                                                                                \
  static void ds_##name##_boxed(StableIValue *stack, uint64_t argument_count, uint64_t result_count) {       \
    (void)argument_count, (void)result_count;                                                                \
    ds_call_run(&ds_##name##_operator, stack);                                                               \
  }                                                                                                          \
  static void ds_##name##_meta(StableIValue *stack, uint64_t argument_count, uint64_t result_count) {        \
    (void)argument_count, (void)result_count;                                                                \
    ds_call_run_meta(&ds_##name##_operator, stack);                                                          \
  }
DS_OPERATORS(DS_DEFINE_BOXED)

static const struct {
  const ds_operator *definition;
  boxed_kernel boxed; // CPU and CUDA
  boxed_kernel meta;
} table[] = {
#define DS_TABLE_ENTRY(name) {&ds_##name##_operator, ds_##name##_boxed, ds_##name##_meta},
    DS_OPERATORS(DS_TABLE_ENTRY)};
enum { OPERATORS = sizeof table / sizeof *table };

static AOTITorchError register_kernel(TorchLibraryHandle library, const char *name, boxed_kernel kernel) {
  // Missing in a torch older than 2.10.
  return torch_library_impl != NULL ? torch_library_impl(library, name, kernel, DS_TORCH_2_10)
                                    : aoti_torch_library_impl(library, name, kernel);
}

static AOTITorchError define_schema(TorchLibraryHandle library, const ds_operator *definition) {
  char schema[DS_SCHEMA_BYTES];
  return ds_schema_write(definition, schema) ? aoti_torch_library_def(library, schema) : 1;
}

static AOTITorchError define_schemas(void) {
  // Not released: the registrations last as long as the handle.
  TorchLibraryHandle library = NULL;
  AOTITorchError error = aoti_torch_library_init_fragment(DS_NAMESPACE, __FILE__, __LINE__, &library);
  for (int i = 0; i < OPERATORS && error == 0; i++) error = define_schema(library, table[i].definition);
  return error;
}

static AOTITorchError register_kernels(const char *dispatch_key, int meta) {
  TorchLibraryHandle library = NULL;
  AOTITorchError error =
      aoti_torch_library_init_impl(DS_NAMESPACE, dispatch_key, __FILE__, __LINE__, &library);
  for (int i = 0; i < OPERATORS && error == 0; i++)
    error = register_kernel(library, table[i].definition->name, meta ? table[i].meta : table[i].boxed);
  return error;
}

// A failure leaves operators undefined, which torch reports at their first use. It happens where another copy
// of the library has registered them already: then that copy serves.
__attribute__((constructor)) static void register_operators(void) {
  ds_torch_find_recent();
  if (define_schemas() != 0) return;
  if (aoti_torch_abi_version() < DS_TORCH_2_10) {
    // A constructor has no way to raise an error, so each call does, whatever its tensors are.
    (void)register_kernels("CompositeExplicitAutograd", 0);
    return;
  }
  (void)register_kernels("CPU", 0);
  (void)register_kernels("CUDA", 0);
  (void)register_kernels("Meta", 1);
}
