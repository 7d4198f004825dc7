// Registers the operators with torch when the library is loaded.
#include "ds_operators.h"

#define NAMESPACE "ds_diffusers"

static const ds_operator *const operators[] = {
    &ds_layer_norm_operator, &ds_layer_norm_residual_store_pre_ln_res_operator, &ds_gated_activation_operator,
    &ds_nhwc_bias_add_operator, &ds_block_forward_operator};
enum { OPERATORS = sizeof operators / sizeof *operators };

static AOTITorchError register_kernel(TorchLibraryHandle library, const char *name, ds_boxed_fn kernel) {
  // Missing in a torch older than 2.10.
  return torch_library_impl != NULL ? torch_library_impl(library, name, kernel, DS_TORCH_2_10)
                                    : aoti_torch_library_impl(library, name, kernel);
}

static AOTITorchError define_schemas(void) {
  // Not released: the registrations last as long as the handle.
  TorchLibraryHandle library = NULL;
  AOTITorchError error = aoti_torch_library_init_fragment(NAMESPACE, __FILE__, __LINE__, &library);
  for (int i = 0; i < OPERATORS && error == 0; i++)
    error = aoti_torch_library_def(library, operators[i]->schema);
  return error;
}

static AOTITorchError register_kernels(const char *dispatch_key, int meta) {
  TorchLibraryHandle library = NULL;
  AOTITorchError error = aoti_torch_library_init_impl(NAMESPACE, dispatch_key, __FILE__, __LINE__, &library);
  for (int i = 0; i < OPERATORS && error == 0; i++)
    error = register_kernel(library, operators[i]->name, meta ? operators[i]->meta : operators[i]->run);
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
