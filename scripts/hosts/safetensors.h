// Tensors in a file of the safetensors format (https://huggingface.co/docs/safetensors): the header's length
// in 8 bytes, the header in JSON, then the tensors' data, all little-endian.
#ifndef DS_HOST_SAFETENSORS_H
#define DS_HOST_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SAFETENSORS_MAX_RANK 8

typedef struct safetensors_tensor {
  const char *name;
  const char *dtype; // as the format writes it: "F32", "F16", "BF16", "I64", …
  int rank;
  int64_t shape[SAFETENSORS_MAX_RANK];
  const void *data; // contiguous, row by row; aligned to its elements where the file is as the format asks
  size_t bytes;
} safetensors_tensor;

typedef struct safetensors_file {
  const char *path;
  safetensors_tensor *tensors;
  int count;
  void *memory; // the mapped file
  size_t memory_bytes;
  void *header; // parsed; owns the names
} safetensors_file;

// Opens a file for reading. Returns false, with host_error, where it is missing or breaks the format; then
// there is nothing to close. `path` must stay.
bool safetensors_open(const char *path, safetensors_file *file);
void safetensors_close(safetensors_file *file);

// The tensor of that name; NULL, with host_error, where there is none.
const safetensors_tensor *safetensors_find(const safetensors_file *file, const char *name);

// The number of bytes of an element; 0 for a dtype that this reader does not know.
size_t safetensors_element_bytes(const char *dtype);

// Writes one tensor of float32 elements; false, with host_error, where it cannot.
bool safetensors_write(const char *path, const char *name, int rank, const int64_t *shape, const float *data);

#ifdef __cplusplus
}
#endif
#endif
