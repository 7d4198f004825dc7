#include "ds_check.h"
#include "ds_gated_activation_params.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

// What fits of "[2, 3, 4]" into a message.
typedef struct shape_text {
  char text[128];
} shape_text;

static int64_t last_size_of(const ds_tensor *tensor) {
  return tensor->rank == 0 ? 0 : tensor->sizes[tensor->rank - 1];
}

// The tensor's sizes but for the last, which is `last_size`.
static int64_t size_of(const ds_tensor *tensor, int32_t dim, int64_t last_size) {
  return dim == tensor->rank - 1 ? last_size : tensor->sizes[dim];
}

static shape_text format_shape(const ds_tensor *tensor, int64_t last_size) {
  shape_text shape;
  const size_t bytes = sizeof shape.text;
  size_t used = (size_t)snprintf(shape.text, bytes, "[");
  for (int32_t i = 0; i < tensor->rank && used < bytes; i++)
    used += (size_t)snprintf(shape.text + used, bytes - used, "%s%" PRId64, i == 0 ? "" : ", ",
                             size_of(tensor, i, last_size));
  if (used < bytes) snprintf(shape.text + used, bytes - used, "]");
  return shape;
}

ds_status ds_shape_error(const char *op, const char *name, const ds_tensor *tensor, const char *format, ...) {
  char expected[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(expected, sizeof expected, format, arguments);
  va_end(arguments);
  const shape_text shape = format_shape(tensor, last_size_of(tensor));
  return ds_error(DS_E_SHAPE, "%s: %s has shape %s, must be %s", op, name, shape.text, expected);
}

static ds_status check_present(const char *op, const char *name, const ds_tensor *tensor) {
  return tensor == NULL ? ds_error(DS_E_NULL, "%s: %s is None, must be a tensor", op, name) : DS_OK;
}

static ds_status check_place(const char *op, const char *name, const ds_tensor *tensor) {
  if (tensor->device_type == DS_DEVICE_OTHER)
    return ds_error(DS_E_DEVICE,
                    "%s: %s is on a device that is not supported, must be on the CPU or a CUDA device", op,
                    name);
  if (tensor->data == NULL && ds_tensor_numel(tensor) != 0)
    return ds_error(DS_E_NULL, "%s: %s has no memory, must have its elements in memory", op, name);
  return DS_OK;
}

ds_status ds_check_tensor(const char *op, const char *name, const ds_tensor *tensor) {
  DS_CHECK(check_present(op, name, tensor));
  if (ds_dtype_bytes(tensor->dtype) == 0)
    return ds_error(DS_E_DTYPE, "%s: %s has dtype %s, must be float32, float16 or bfloat16", op, name,
                    ds_dtype_name(tensor->dtype));
  return check_place(op, name, tensor);
}

typedef struct device_text {
  char text[24];
} device_text;

static device_text format_device(const ds_tensor *tensor) {
  device_text device;
  if (tensor->device_type == DS_CPU)
    snprintf(device.text, sizeof device.text, "cpu");
  else
    snprintf(device.text, sizeof device.text, "cuda:%" PRId32, tensor->device_index);
  return device;
}

static ds_status check_same_device(const char *op, const char *name, const ds_tensor *tensor,
                                   const char *reference_name, const ds_tensor *reference) {
  const int same_index = tensor->device_type != DS_CUDA || tensor->device_index == reference->device_index;
  if (tensor->device_type != reference->device_type || !same_index)
    return ds_error(DS_E_DEVICE, "%s: %s is on %s, must be on %s, the device of %s", op, name,
                    format_device(tensor).text, format_device(reference).text, reference_name);
  return DS_OK;
}

ds_status ds_check_alike(const char *op, const char *name, const ds_tensor *tensor,
                         const char *reference_name, const ds_tensor *reference) {
  DS_CHECK(ds_check_tensor(op, name, tensor));
  if (tensor->dtype != reference->dtype)
    return ds_error(DS_E_DTYPE, "%s: %s has dtype %s, must be %s, the dtype of %s", op, name,
                    ds_dtype_name(tensor->dtype), ds_dtype_name(reference->dtype), reference_name);
  return check_same_device(op, name, tensor, reference_name, reference);
}

ds_status ds_check_dtype(const char *op, const char *name, const ds_tensor *tensor, ds_dtype dtype,
                         const char *condition, const char *reference_name, const ds_tensor *reference) {
  DS_CHECK(check_present(op, name, tensor));
  if (tensor->dtype != dtype)
    return ds_error(DS_E_DTYPE, "%s: %s has dtype %s, must be %s%s%s", op, name, ds_dtype_name(tensor->dtype),
                    ds_dtype_name(dtype), *condition == '\0' ? "" : " ", condition);
  DS_CHECK(check_place(op, name, tensor));
  return check_same_device(op, name, tensor, reference_name, reference);
}

ds_status ds_check_vector(const char *op, const char *name, const ds_tensor *tensor, int64_t size,
                          const char *meaning, const char *reference_name, const ds_tensor *reference) {
  DS_CHECK(ds_check_alike(op, name, tensor, reference_name, reference));
  if (tensor->rank != 1 || tensor->sizes[0] != size)
    return ds_shape_error(op, name, tensor, "[%" PRId64 "], %s", size, meaning);
  if (!ds_tensor_is_contiguous(tensor))
    return ds_error(DS_E_STRIDE, "%s: %s has stride %" PRId64 ", must be contiguous", op, name,
                    tensor->strides[0]);
  return DS_OK;
}

ds_status ds_check_optional_vector(const char *op, const char *name, const ds_tensor *tensor, int64_t size,
                                   const char *meaning, const char *reference_name,
                                   const ds_tensor *reference) {
  if (tensor == NULL) return DS_OK;
  return ds_check_vector(op, name, tensor, size, meaning, reference_name, reference);
}

static int has_sizes_of(const ds_tensor *tensor, const ds_tensor *reference, int64_t last_size) {
  if (tensor->rank != reference->rank) return 0;
  for (int32_t i = 0; i < tensor->rank; i++)
    if (tensor->sizes[i] != size_of(reference, i, last_size)) return 0;
  return 1;
}

ds_status ds_check_same_sizes(const char *op, const char *name, const ds_tensor *tensor,
                              const char *reference_name, const ds_tensor *reference) {
  DS_CHECK(ds_check_alike(op, name, tensor, reference_name, reference));
  const int64_t last_size = last_size_of(reference);
  if (!has_sizes_of(tensor, reference, last_size))
    return ds_shape_error(op, name, tensor, "%s, the shape of %s", format_shape(reference, last_size).text,
                          reference_name);
  return DS_OK;
}

ds_status ds_check_output(const char *op, const char *name, const ds_tensor *tensor, int64_t last_size,
                          const char *reference_name, const ds_tensor *reference) {
  DS_CHECK(ds_check_alike(op, name, tensor, reference_name, reference));
  if (!has_sizes_of(tensor, reference, last_size))
    return ds_shape_error(op, name, tensor, "%s", format_shape(reference, last_size).text);
  if (!ds_tensor_is_contiguous(tensor))
    return ds_error(DS_E_STRIDE, "%s: %s is not contiguous, must be contiguous", op, name);
  return DS_OK;
}

ds_status ds_check_epsilon(const char *op, const char *name, double epsilon) {
  if (!isfinite(epsilon) || epsilon < 0)
    return ds_error(DS_E_VALUE, "%s: %s is %g, must be finite and not negative", op, name, epsilon);
  return DS_OK;
}

ds_status ds_check_activation_type(const char *op, int64_t activation_type) {
  if (activation_type == DS_ACTIVATION_GATED_GELU || activation_type == DS_ACTIVATION_GATED_SILU)
    return DS_OK;
  return ds_error(DS_E_VALUE, "%s: activation_type is %" PRId64 ", must be 3 (GATED_GELU) or 4 (GATED_SILU)",
                  op, activation_type);
}
