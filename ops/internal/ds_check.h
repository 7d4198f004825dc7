// The checks that operators share. Each names the operator, the argument, what it is and what it must be.
#ifndef DS_CHECK_H
#define DS_CHECK_H

#include "ds_tensor.h"

// Present, of a dtype and on a device that the library supports.
ds_status ds_check_tensor(const char *op, const char *name, const ds_tensor *tensor);

// As above, and of the dtype and on the device of `reference`.
ds_status ds_check_alike(const char *op, const char *name, const ds_tensor *tensor,
                         const char *reference_name, const ds_tensor *reference);

// Present, of `dtype`, and on the device of `reference`. `condition` follows the dtype in the message: "", or
// "where weight is given".
ds_status ds_check_dtype(const char *op, const char *name, const ds_tensor *tensor, ds_dtype dtype,
                         const char *condition, const char *reference_name, const ds_tensor *reference);

// [size] and contiguous, like `reference` in dtype and device. `meaning` explains the size in the message,
// e.g. "the size of input's last dimension".
ds_status ds_check_vector(const char *op, const char *name, const ds_tensor *tensor, int64_t size,
                          const char *meaning, const char *reference_name, const ds_tensor *reference);

// As ds_check_vector; NULL is right too.
ds_status ds_check_optional_vector(const char *op, const char *name, const ds_tensor *tensor, int64_t size,
                                   const char *meaning, const char *reference_name,
                                   const ds_tensor *reference);

// Of the sizes of `reference`, and like it in dtype and device.
ds_status ds_check_same_sizes(const char *op, const char *name, const ds_tensor *tensor,
                              const char *reference_name, const ds_tensor *reference);

// Present, contiguous, of the sizes of `reference` but for the last, which is `last_size`, and like it in
// dtype and device.
ds_status ds_check_output(const char *op, const char *name, const ds_tensor *tensor, int64_t last_size,
                          const char *reference_name, const ds_tensor *reference);

// Finite and not negative.
ds_status ds_check_epsilon(const char *op, const char *name, double epsilon);

// DS_ACTIVATION_GATED_GELU or DS_ACTIVATION_GATED_SILU.
ds_status ds_check_activation_type(const char *op, int64_t activation_type);

// A wrong shape: "<op>: <name> has shape [...], must be <expected>".
ds_status ds_shape_error(const char *op, const char *name, const ds_tensor *tensor, const char *format, ...)
    DS_PRINTF_LIKE(4, 5);

#endif
