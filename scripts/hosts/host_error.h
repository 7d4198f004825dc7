// The one message that a host ends with when something fails.
#ifndef DS_HOST_ERROR_H
#define DS_HOST_ERROR_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

// Keeps the message, formatted as by printf and cut at a few hundred characters, and returns false.
bool host_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// The message of the last host_fail, "" before the first.
const char *host_error(void);

#ifdef __cplusplus
}
#endif
#endif
