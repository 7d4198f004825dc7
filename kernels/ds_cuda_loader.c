// dladdr tells where this library lies
#define _GNU_SOURCE
#include "ds_cuda_loader.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static ds_status own_folder(char *folder, size_t bytes) {
  Dl_info info;
  if (dladdr((const void *)(uintptr_t)&ds_cuda_module_open, &info) == 0 || info.dli_fname == NULL)
    return ds_error(DS_E_UNSUPPORTED,
                    "the folder of the ds_diffusers library is unknown, so " DS_CUDA_MODULE_FILE
                    " cannot be found");
  const char *slash = strrchr(info.dli_fname, '/');
  const int length = slash == NULL
                         ? snprintf(folder, bytes, ".")
                         : snprintf(folder, bytes, "%.*s", (int)(slash - info.dli_fname), info.dli_fname);
  if (length < 0 || (size_t)length >= bytes)
    return ds_error(DS_E_UNSUPPORTED, "the path of the ds_diffusers library is too long");
  return DS_OK;
}

static ds_status check_module(const ds_cuda_module *module, const char *path) {
  if (module->version != DS_CUDA_MODULE_VERSION || module->struct_bytes != sizeof *module)
    return ds_error(
        DS_E_UNSUPPORTED,
        "%s has interface version %u (%u bytes), this library needs version %u (%zu bytes); install "
        "both libraries from the same build of ds_diffusers",
        path, module->version, module->struct_bytes, DS_CUDA_MODULE_VERSION, sizeof *module);
  return DS_OK;
}

ds_status ds_cuda_module_open(const char *folder, const ds_cuda_module **module) {
  char own[PATH_MAX];
  if (folder == NULL) {
    DS_CHECK(own_folder(own, sizeof own));
    folder = own;
  }
  char path[PATH_MAX + sizeof DS_CUDA_MODULE_FILE];
  const int length = snprintf(path, sizeof path, "%s/" DS_CUDA_MODULE_FILE, folder);
  if (length < 0 || (size_t)length >= sizeof path)
    return ds_error(DS_E_UNSUPPORTED, "the path of " DS_CUDA_MODULE_FILE " is too long");

  // Not closed on success: kernels and graphs that hold its code may outlive any caller.
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL)
    return ds_error(DS_E_UNSUPPORTED,
                    "CUDA tensors need " DS_CUDA_MODULE_FILE
                    ", which could not be opened (%s); install ds_diffusers "
                    "from a build made with nvcc, or move the tensors to the CPU",
                    dlerror());
  const ds_cuda_module_fn entry = (ds_cuda_module_fn)(uintptr_t)dlsym(library, DS_CUDA_MODULE_SYMBOL);
  const ds_status status = entry == NULL
                               ? ds_error(DS_E_UNSUPPORTED,
                                          "%s does not export " DS_CUDA_MODULE_SYMBOL "; install both "
                                          "libraries from the same build of ds_diffusers",
                                          path)
                               : check_module(entry(), path);
  if (status != DS_OK) {
    dlclose(library);
    return status;
  }
  *module = entry();
  return DS_OK;
}
