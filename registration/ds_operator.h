// What an operator is to torch: its arguments, results and two functions. The schema, the reading of the
// stack and the boxed kernels are made from it.
#ifndef DS_OPERATOR_H
#define DS_OPERATOR_H

#include "ds_status.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DS_NAMESPACE "ds_diffusers"
#define DS_MAX_ARGUMENTS 40
#define DS_MAX_RESULTS 2

// The schema's type, and the field's in the operator's struct of arguments.
typedef enum ds_argument_kind {
  DS_ARGUMENT_TENSOR,          // Tensor: const ds_tensor *
  DS_ARGUMENT_OPTIONAL_TENSOR, // Tensor?: const ds_tensor *, NULL for None
  DS_ARGUMENT_INT,             // int: int64_t
  DS_ARGUMENT_FLOAT            // float: double
} ds_argument_kind;

// The memory layout that the operator's contract asks for. A tensor that lies otherwise is replaced by a
// contiguous copy.
typedef enum ds_argument_layout {
  DS_LAYOUT_ANY,          // any strides
  DS_LAYOUT_ROWS,         // any that fits ds_rows: nearly all
  DS_LAYOUT_REGULAR_ROWS, // rows at one stride, contiguous last dimension
  DS_LAYOUT_CONTIGUOUS
} ds_argument_layout;

typedef struct ds_argument {
  const char *name;
  size_t offset; // of the field in the operator's struct of arguments
  ds_argument_kind kind;
  ds_argument_layout layout;
  int own_dtype;            // a tensor's dtype may differ from the first argument's
  const char *default_text; // as the schema writes it: "None", "1e-05"; NULL: must be given
} ds_argument;

struct ds_call;

typedef struct ds_operator {
  const char *name; // "layer_norm"
  const ds_argument *arguments;
  int argument_count;
  int positional_count; // arguments that may be given without their name; 0: all
  int result_count;     // tensors
  // Makes the results of a call on the CPU or on CUDA: takes the arguments by ds_call_arguments, makes result
  // tensors and fills them.
  ds_status (*run)(struct ds_call *call);
  // Makes the results of a call on "meta", from call->inputs, without reading sizes.
  ds_status (*meta)(struct ds_call *call);
} ds_operator;

// The fields `arguments` and `argument_count` from an array; one that is too long does not compile.
#define DS_OPERATOR_ARGUMENTS(array) .arguments = (array), .argument_count = DS_ARGUMENT_COUNT(array)
#define DS_ARGUMENT_COUNT(array) (sizeof(array) / sizeof *(array) + 0 * DS_FITS(array, DS_MAX_ARGUMENTS))
#define DS_FITS(array, most)                                                                                 \
  sizeof(struct {                                                                                            \
    _Static_assert(sizeof(array) / sizeof *(array) <= (most), #array " has more entries than " #most);       \
    char unused;                                                                                             \
  })

#ifdef __cplusplus
}
#endif
#endif
