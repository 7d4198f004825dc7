// The C interface of a library that AOTInductor compiled, and what else a host needs of LibTorch's stable C
// ABI, declared for C: torch's own headers are C++. A test compares these types with them.
#ifndef DS_HOST_AOTINDUCTOR_INTERFACE_H
#define DS_HOST_AOTINDUCTOR_INTERFACE_H

#include "ds_torch_shim.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t AOTIRuntimeError;
typedef struct AOTInductorModelContainerOpaque *AOTInductorModelContainerHandle;
typedef struct AOTInductorStreamOpaque *AOTInductorStreamHandle;
typedef struct AOTIProxyExecutorOpaque *AOTIProxyExecutorHandle;

// X(name, (arguments)), exported by each compiled library: AOTInductorModelContainer<name>. An error code of
// 0 is success. Run takes the inputs' handles over, and gives the outputs' away.
#define DS_MODEL_CONTAINER(X)                                                                                \
  X(CreateWithDevice,                                                                                        \
    (AOTInductorModelContainerHandle * container, size_t models, const char *device, const char *folder))    \
  X(Delete, (AOTInductorModelContainerHandle container))                                                     \
  X(GetNumInputs, (AOTInductorModelContainerHandle container, size_t * count))                               \
  X(GetNumOutputs, (AOTInductorModelContainerHandle container, size_t * count))                              \
  X(GetCallSpec, (AOTInductorModelContainerHandle container, const char **inputs, const char **outputs))     \
  X(Run, (AOTInductorModelContainerHandle container, AtenTensorHandle * inputs, size_t input_count,          \
          AtenTensorHandle * outputs, size_t output_count, AOTInductorStreamHandle stream,                   \
          AOTIProxyExecutorHandle proxy_executor))

AOTITorchError aoti_torch_copy_(AtenTensorHandle self, AtenTensorHandle source, int32_t non_blocking);

#ifdef __cplusplus
}
#endif
#endif
