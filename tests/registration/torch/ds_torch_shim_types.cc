// Compiles only where each function of the plugin's lists has the type that torch's own headers declare.
#include "ds_torch_shim_list.h"
#include <type_traits>

// The headers leave the CUDA functions out without this.
#define USE_CUDA
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/version.h>

// What the plugin's own declarations are made of.
static_assert(std::is_same_v<AOTITorchError, int32_t>);
static_assert(std::is_same_v<StableIValue, uint64_t>);
static_assert(std::is_pointer_v<AtenTensorHandle>);
static_assert(std::is_pointer_v<TorchLibraryHandle>);
static_assert(std::is_pointer_v<CUDAGuardHandle>);

#define DS_SAME_TYPE(return_type, name, arguments)                                                           \
  static_assert(std::is_same_v<decltype(&name), return_type(*) arguments>,                                   \
                #name " differs from torch's declaration");

// Functions that this torch is too old for are not in its headers.
#define DS_TORCH_MINOR(minor) (TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= (minor))
#define DS_SAME_TYPE_208 DS_SAME_TYPE
#define DS_SAME_TYPE_210 DS_SAME_TYPE
#if DS_TORCH_MINOR(13)
#  define DS_SAME_TYPE_213 DS_SAME_TYPE
#else
#  define DS_SAME_TYPE_213(return_type, name, arguments)
#endif
#define DS_CHECK_TYPE(since, return_type, name, arguments) DS_SAME_TYPE_##since(return_type, name, arguments)

DS_TORCH_SHIM(DS_CHECK_TYPE)
DS_TORCH_RECENT_SHIM(DS_CHECK_TYPE)
DS_TORCH_CUDA_SHIM(DS_CHECK_TYPE)
