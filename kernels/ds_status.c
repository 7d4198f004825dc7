#include "ds_status.h"
#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[1024];

ds_status ds_error(ds_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}

const char *ds_error_message(void) {
  return message;
}

const char *ds_status_name(ds_status status) {
  static const char *const names[] = {
      "DS_OK",      "DS_E_NULL",   "DS_E_SHAPE",       "DS_E_STRIDE", "DS_E_DTYPE",  "DS_E_DEVICE",
      "DS_E_VALUE", "DS_E_MEMORY", "DS_E_UNSUPPORTED", "DS_E_CUDA",   "DS_E_SERVICE"};
  const unsigned index = (unsigned)status;
  return index < sizeof names / sizeof *names ? names[index] : "unknown status";
}
