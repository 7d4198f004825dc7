#include "ds_schema.h"
#include <stdarg.h>
#include <stdio.h>

typedef struct writer {
  char *text;
  size_t used; // more than fits: what followed was left out
} writer;

static void write_text(writer *to, const char *format, ...) {
  if (to->used >= DS_SCHEMA_BYTES) return;
  va_list arguments;
  va_start(arguments, format);
  to->used += (size_t)vsnprintf(to->text + to->used, DS_SCHEMA_BYTES - to->used, format, arguments);
  va_end(arguments);
}

static const char *type_of(ds_argument_kind kind) {
  switch (kind) {
  case DS_ARGUMENT_TENSOR:
    return "Tensor";
  case DS_ARGUMENT_OPTIONAL_TENSOR:
    return "Tensor?";
  case DS_ARGUMENT_INT:
    return "int";
  default:
    return "float";
  }
}

static void write_argument(writer *to, const ds_argument *argument) {
  write_text(to, "%s %s", type_of(argument->kind), argument->name);
  if (argument->default_text != NULL) write_text(to, "=%s", argument->default_text);
}

int ds_schema_write(const ds_operator *of, char text[DS_SCHEMA_BYTES]) {
  writer to = {text, 0};
  write_text(&to, "%s(", of->name);
  for (int i = 0; i < of->argument_count; i++) {
    if (i > 0) write_text(&to, ", ");
    if (i > 0 && i == of->positional_count) write_text(&to, "*, ");
    write_argument(&to, &of->arguments[i]);
  }
  write_text(&to, of->result_count == 1 ? ") -> Tensor" : ") -> (Tensor");
  for (int i = 1; i < of->result_count; i++) write_text(&to, ", Tensor");
  if (of->result_count != 1) write_text(&to, ")");
  return to.used < DS_SCHEMA_BYTES;
}
