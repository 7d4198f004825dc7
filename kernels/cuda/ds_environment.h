// Switches that the process's environment holds.
#ifndef DS_ENVIRONMENT_H
#define DS_ENVIRONMENT_H

#include "ds_status.h"
#include <stdlib.h>
#include <string.h>

// "1": *on is 1; "0": it is 0; empty or unset: it is `otherwise`; DS_E_VALUE for anything else.
static inline ds_status ds_read_switch(const char *variable, int otherwise, int *on) {
  const char *value = getenv(variable);
  const int is_set = value != NULL && *value != '\0';
  *on = is_set ? strcmp(value, "1") == 0 : otherwise;
  if (!is_set || *on || strcmp(value, "0") == 0) return DS_OK;
  return ds_error(DS_E_VALUE, "%s is '%s', must be 0 or 1", variable, value);
}

#endif
