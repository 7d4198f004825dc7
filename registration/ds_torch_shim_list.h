// The functions of LibTorch's stable C ABI that the plugin calls: X(since, return_type, name, (arguments)),
// where `since` is the torch release that brought the function, as 100 · major + minor. One list makes the
// prototypes, the stub that the plugin links against, a fake for tests, and a test that compares each type
// with torch's own header.
#ifndef DS_TORCH_SHIM_LIST_H
#define DS_TORCH_SHIM_LIST_H

// Exported by libtorch_cpu.so. Those of 2.10 and later are weak references: absent in an older torch, they
// are NULL.
#define DS_TORCH_SHIM(X)                                                                                     \
  X(208, uint64_t, aoti_torch_abi_version, (void))                                                           \
  X(208, void, aoti_torch_check,                                                                             \
    (bool condition, const char *function, const char *file, uint32_t line, const char *message))            \
  X(208, AOTITorchError, aoti_torch_library_init_fragment,                                                   \
    (const char *name_space, const char *file, uint32_t line, TorchLibraryHandle *library))                  \
  X(208, AOTITorchError, aoti_torch_library_init_impl,                                                       \
    (const char *name_space, const char *dispatch_key, const char *file, uint32_t line,                      \
     TorchLibraryHandle *library))                                                                           \
  X(208, AOTITorchError, aoti_torch_library_def, (TorchLibraryHandle library, const char *schema))           \
  X(208, AOTITorchError, aoti_torch_library_impl,                                                            \
    (TorchLibraryHandle library, const char *name, void (*function)(StableIValue *, uint64_t, uint64_t)))    \
  X(208, int32_t, aoti_torch_device_type_cpu, (void))                                                        \
  X(208, int32_t, aoti_torch_device_type_cuda, (void))                                                       \
  X(208, int32_t, aoti_torch_device_type_meta, (void))                                                       \
  X(208, int32_t, aoti_torch_dtype_float32, (void))                                                          \
  X(208, int32_t, aoti_torch_dtype_float16, (void))                                                          \
  X(208, int32_t, aoti_torch_dtype_bfloat16, (void))                                                         \
  X(208, int32_t, aoti_torch_dtype_float64, (void))                                                          \
  X(208, int32_t, aoti_torch_dtype_uint8, (void))                                                            \
  X(208, int32_t, aoti_torch_dtype_int8, (void))                                                             \
  X(208, int32_t, aoti_torch_dtype_int16, (void))                                                            \
  X(208, int32_t, aoti_torch_dtype_int32, (void))                                                            \
  X(208, int32_t, aoti_torch_dtype_int64, (void))                                                            \
  X(208, int32_t, aoti_torch_dtype_bool, (void))                                                             \
  X(208, int32_t, aoti_torch_dtype_complex64, (void))                                                        \
  X(208, int32_t, aoti_torch_dtype_complex128, (void))                                                       \
  X(208, int32_t, aoti_torch_layout_strided, (void))                                                         \
  X(208, int32_t, aoti_torch_memory_format_contiguous_format, (void))                                        \
  X(208, int32_t, aoti_torch_memory_format_preserve_format, (void))                                          \
  X(208, AOTITorchError, aoti_torch_is_defined, (AtenTensorHandle tensor, bool *defined))                    \
  X(208, AOTITorchError, aoti_torch_get_data_ptr, (AtenTensorHandle tensor, void **pointer))                 \
  X(208, AOTITorchError, aoti_torch_get_dim, (AtenTensorHandle tensor, int64_t * rank))                      \
  X(208, AOTITorchError, aoti_torch_get_sizes, (AtenTensorHandle tensor, int64_t * *sizes))                  \
  X(208, AOTITorchError, aoti_torch_get_strides, (AtenTensorHandle tensor, int64_t * *strides))              \
  X(208, AOTITorchError, aoti_torch_get_dtype, (AtenTensorHandle tensor, int32_t * dtype))                   \
  X(208, AOTITorchError, aoti_torch_get_device_type, (AtenTensorHandle tensor, int32_t * device_type))       \
  X(208, AOTITorchError, aoti_torch_get_device_index, (AtenTensorHandle tensor, int32_t * device_index))     \
  X(208, AOTITorchError, aoti_torch_new_tensor_handle,                                                       \
    (AtenTensorHandle original, AtenTensorHandle * tensor))                                                  \
  X(208, AOTITorchError, aoti_torch_delete_tensor_object, (AtenTensorHandle tensor))                         \
  X(208, AOTITorchError, aoti_torch_empty_strided,                                                           \
    (int64_t rank, const int64_t *sizes, const int64_t *strides, int32_t dtype, int32_t device_type,         \
     int32_t device_index, AtenTensorHandle *tensor))                                                        \
  X(208, AOTITorchError, aoti_torch_create_tensor_from_blob_v2,                                              \
    (void *data, int64_t rank, const int64_t *sizes, const int64_t *strides, int64_t storage_offset,         \
     int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle *tensor, int32_t layout,     \
     const uint8_t *opaque_metadata, int64_t opaque_metadata_bytes))                                         \
  X(208, AOTITorchError, aoti_torch_cpu_addmm_out,                                                           \
    (AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat1, AtenTensorHandle mat2, double beta, \
     double alpha))                                                                                          \
  X(208, AOTITorchError, aoti_torch_cpu_mm_out,                                                              \
    (AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat2))                                    \
  X(210, AOTITorchError, torch_library_impl,                                                                 \
    (TorchLibraryHandle library, const char *name, void (*function)(StableIValue *, uint64_t, uint64_t),     \
     uint64_t extension_build_version))                                                                      \
  X(210, AOTITorchError, torch_call_dispatcher,                                                              \
    (const char *name, const char *overload, StableIValue *stack, uint64_t extension_build_version))         \
  X(210, AOTITorchError, torch_get_const_data_ptr, (AtenTensorHandle tensor, const void **pointer))          \
  X(210, AOTITorchError, torch_parallel_for,                                                                 \
    (int64_t begin, int64_t end, int64_t grain_size, void (*function)(int64_t, int64_t, void *),             \
     void *context))

// Exported by libtorch_cpu.so since later releases: looked up when the library is loaded, NULL where torch is
// older. So the library asks for no more than torch 2.10.
#define DS_TORCH_RECENT_SHIM(X)                                                                              \
  X(213, const char *, torch_exception_get_what_without_backtrace, (void))                                   \
  X(213, AOTITorchError, torch_new_stable_ivalue, (StableIValue * *value))                                   \
  X(213, AOTITorchError, torch_delete_stable_ivalue, (StableIValue * value))

// Exported by libtorch_cuda.so, which a CPU build of torch lacks: looked up at the first CUDA call.
#define DS_TORCH_CUDA_SHIM(X)                                                                                \
  X(208, AOTITorchError, aoti_torch_create_cuda_guard, (int32_t device_index, CUDAGuardHandle * guard))      \
  X(208, AOTITorchError, aoti_torch_delete_cuda_guard, (CUDAGuardHandle guard))                              \
  X(208, AOTITorchError, aoti_torch_get_current_cuda_stream, (int32_t device_index, void **stream))          \
  X(210, AOTITorchError, torch_get_current_cuda_blas_handle, (void **handle))

#endif
