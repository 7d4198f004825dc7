#define _GNU_SOURCE // O_CLOEXEC, mmap
#include "safetensors.h"
#include "host_error.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LENGTH_BYTES = 8, HEADER_ALIGNMENT = 8 };
static const double LARGEST_INTEGER = 9007199254740992.0; // that JSON's numbers, doubles, hold exactly

size_t safetensors_element_bytes(const char *dtype) {
  static const struct {
    const char *dtype;
    size_t bytes;
  } known[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},
               {"I32", 4}, {"I16", 2}, {"I8", 1},  {"U8", 1},   {"BOOL", 1}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(known[i].dtype, dtype) == 0) return known[i].bytes;
  return 0;
}

static bool read_integer(const cJSON *item, int64_t *value) {
  if (!cJSON_IsNumber(item) || item->valuedouble < 0 || item->valuedouble > LARGEST_INTEGER ||
      item->valuedouble != floor(item->valuedouble))
    return false;
  *value = (int64_t)item->valuedouble;
  return true;
}

static bool read_shape(const cJSON *item, safetensors_tensor *tensor) {
  const int rank = cJSON_GetArraySize(item);
  if (!cJSON_IsArray(item) || rank > SAFETENSORS_MAX_RANK) return false;
  tensor->rank = rank;
  for (int i = 0; i < rank; i++)
    if (!read_integer(cJSON_GetArrayItem(item, i), &tensor->shape[i])) return false;
  return true;
}

// Whether the shape's elements fill `bytes`; no product on the way overflows.
static bool fills(const safetensors_tensor *tensor) {
  size_t bytes = safetensors_element_bytes(tensor->dtype);
  if (bytes == 0) return true; // of no use here, but no error of the file
  for (int i = 0; i < tensor->rank; i++)
    if (__builtin_mul_overflow(bytes, (size_t)tensor->shape[i], &bytes)) return false;
  return bytes == tensor->bytes;
}

static bool read_tensor(const cJSON *entry, const char *data, size_t data_bytes, safetensors_tensor *tensor) {
  const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
  const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
  int64_t begin, end;
  if (!cJSON_IsString(dtype) || !read_shape(cJSON_GetObjectItemCaseSensitive(entry, "shape"), tensor) ||
      cJSON_GetArraySize(offsets) != 2 || !read_integer(cJSON_GetArrayItem(offsets, 0), &begin) ||
      !read_integer(cJSON_GetArrayItem(offsets, 1), &end) || begin > end || (uint64_t)end > data_bytes)
    return false;
  tensor->name = entry->string;
  tensor->dtype = dtype->valuestring;
  tensor->data = data + begin;
  tensor->bytes = (size_t)(end - begin);
  return fills(tensor);
}

static bool read_header(safetensors_file *file) {
  uint64_t length = 0;
  if (file->memory_bytes >= LENGTH_BYTES) memcpy(&length, file->memory, LENGTH_BYTES);
  if (file->memory_bytes < LENGTH_BYTES || length > file->memory_bytes - LENGTH_BYTES)
    return host_fail("%s is no safetensors file: its header is longer than the file", file->path);
  const char *text = (const char *)file->memory + LENGTH_BYTES;
  cJSON *header = cJSON_ParseWithLength(text, (size_t)length);
  file->header = header;
  if (!cJSON_IsObject(header))
    return host_fail("%s is no safetensors file: its header is no JSON", file->path);

  file->tensors = calloc((size_t)cJSON_GetArraySize(header) + 1, sizeof *file->tensors);
  if (file->tensors == NULL) return host_fail("no memory for the header of %s", file->path);
  const cJSON *entry;
  cJSON_ArrayForEach(entry, header) {
    if (strcmp(entry->string, "__metadata__") == 0) continue;
    const size_t data_bytes = file->memory_bytes - LENGTH_BYTES - (size_t)length;
    if (!read_tensor(entry, text + length, data_bytes, &file->tensors[file->count]))
      return host_fail("%s is no safetensors file: its entry %s is wrong", file->path, entry->string);
    file->count++;
  }
  return true;
}

static bool map_file(safetensors_file *file) {
  const int descriptor = open(file->path, O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (descriptor < 0 || fstat(descriptor, &status) != 0) {
    const int error = errno;
    if (descriptor >= 0) close(descriptor);
    return host_fail("%s cannot be opened: %s", file->path, strerror(error));
  }
  file->memory_bytes = (size_t)status.st_size;
  // Nothing can be mapped of an empty file, which has no header either.
  file->memory =
      status.st_size == 0 ? NULL : mmap(NULL, file->memory_bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int error = errno;
  close(descriptor);
  if (file->memory != MAP_FAILED) return true;
  file->memory = NULL;
  return host_fail("%s cannot be read: %s", file->path, strerror(error));
}

bool safetensors_open(const char *path, safetensors_file *file) {
  *file = (safetensors_file){.path = path};
  if (map_file(file) && read_header(file)) return true;
  safetensors_close(file);
  return false;
}

void safetensors_close(safetensors_file *file) {
  cJSON_Delete(file->header);
  free(file->tensors);
  if (file->memory != NULL) munmap(file->memory, file->memory_bytes);
  *file = (safetensors_file){0};
}

const safetensors_tensor *safetensors_find(const safetensors_file *file, const char *name) {
  for (int i = 0; i < file->count; i++)
    if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
  host_fail("%s has no tensor %s", file->path, name);
  return NULL;
}

bool safetensors_write(const char *path, const char *name, int rank, const int64_t *shape,
                       const float *data) {
  char header[512];
  size_t count = 1, length;
  length = (size_t)snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[", name);
  for (int i = 0; i < rank; i++) {
    length +=
        (size_t)snprintf(header + length, sizeof header - length, "%s%" PRId64, i > 0 ? "," : "", shape[i]);
    count *= (size_t)shape[i];
  }
  length += (size_t)snprintf(header + length, sizeof header - length, "],\"data_offsets\":[0,%zu]}}",
                             count * sizeof *data);
  while (length % HEADER_ALIGNMENT != 0) header[length++] = ' ';
  const uint64_t header_bytes = length;

  FILE *file = fopen(path, "wb");
  if (file == NULL) return host_fail("%s cannot be written: %s", path, strerror(errno));
  bool written = fwrite(&header_bytes, LENGTH_BYTES, 1, file) == 1 && fwrite(header, length, 1, file) == 1 &&
                 fwrite(data, sizeof *data, count, file) == count;
  const int error = errno;
  written = fclose(file) == 0 && written;
  return written || host_fail("%s cannot be written: %s", path, strerror(error));
}
