#include "host_error.h"
#include <stdarg.h>
#include <stdio.h>

static char message[1024];

bool host_fail(const char *format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  return false;
}

const char *host_error(void) {
  return message;
}
