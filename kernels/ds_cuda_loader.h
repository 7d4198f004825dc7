// Opens the CUDA module on demand, so that the main library needs no CUDA to load.
#ifndef DS_CUDA_LOADER_H
#define DS_CUDA_LOADER_H

#include "cuda/ds_cuda_module.h"
#include "ds_status.h"

#ifdef __cplusplus
extern "C" {
#endif

// Opens DS_CUDA_MODULE_FILE from `folder` (NULL: the folder of the library or program that holds this
// function) and checks its version. The module stays open until the process ends. Several calls, from several
// threads and for several folders, are harmless. DS_E_UNSUPPORTED with a message that says what to install
// where the file is missing, cannot be opened, or is of another version; a later call tries again.
ds_status ds_cuda_module_open(const char *folder, const ds_cuda_module **module);

#ifdef __cplusplus
}
#endif
#endif
