// Switches that the process's environment holds.
#ifndef DS_ENVIRONMENT_H
#define DS_ENVIRONMENT_H

#include "ds_status.h"
#include <stdlib.h>
#include <string.h>

// "1", empty or unset: *on is 1; "0": it is 0; DS_E_VALUE for anything else.
static inline ds_status ds_read_switch(const char *variable, int *on) {
  const char *value = getenv(variable);
  *on = value == NULL || *value == '\0' || strcmp(value, "1") == 0;
  if (*on || strcmp(value, "0") == 0) return DS_OK;
  return ds_error(DS_E_VALUE, "%s is '%s', must be 0 or 1", variable, value);
}

#endif
