// Status codes and the message that goes with a failure. Every function of the library that can fail
// returns a ds_status; the library never aborts, exits, prints or throws.
#ifndef DS_STATUS_H
#define DS_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ds_status {
  DS_OK = 0,
  DS_E_NULL,        // a required argument is missing
  DS_E_SHAPE,       // a rank or a size does not fit
  DS_E_STRIDE,      // a memory layout that the callee does not take
  DS_E_DTYPE,       // a dtype that is not supported, or differs from the other arguments'
  DS_E_DEVICE,      // a device that is not supported, or differs from the other arguments'
  DS_E_VALUE,       // a scalar argument out of its range
  DS_E_MEMORY,      // an allocation failed
  DS_E_UNSUPPORTED, // this build or this machine lacks what the call needs
  DS_E_CUDA,        // a CUDA or cuBLASLt call failed
  DS_E_SERVICE      // a service of the host (a torch function) failed
} ds_status;

#if defined(__GNUC__)
#  define DS_PRINTF_LIKE(format_index, first_argument)                                                       \
    __attribute__((format(printf, format_index, first_argument)))
#else
#  define DS_PRINTF_LIKE(format_index, first_argument)
#endif

// Stores a message for the calling thread and returns `status`, so that a failing check is one statement.
// Messages longer than the buffer (1,024 bytes with the end) are cut. Never call it with DS_OK.
ds_status ds_error(ds_status status, const char *format, ...) DS_PRINTF_LIKE(2, 3);

// The message of the last failure in the calling thread; empty before the first one. Valid until the next
// failure in this thread.
const char *ds_error_message(void);

// "DS_E_SHAPE" and so on; "unknown status" for a value outside the enumeration.
const char *ds_status_name(ds_status status);

// Returns from the calling function with the status of `expression` unless it is DS_OK. Only where nothing
// is owned yet.
#define DS_CHECK(expression)                                                                                 \
  do {                                                                                                       \
    const ds_status ds_check_status = (expression);                                                          \
    if (ds_check_status != DS_OK) return ds_check_status;                                                    \
  } while (0)

#ifdef __cplusplus
}
#endif
#endif
