// Matrix products of CPU tensors through ATen, which has the processor's library of them (oneDNN) behind it.
#ifndef DS_ATEN_LINEAR_H
#define DS_ATEN_LINEAR_H

#include "ds_context.h"
#include "ds_linear_params.h"
#include "ds_torch.h"

// Whether products of a dtype are best computed in float32, with a copy of each operand: a quantised weight
// serves as well then.
int ds_aten_linear_widens(ds_dtype dtype);

// As ds_linear_params.h says, without a residual; with a quantised weight where products are widened. `like`:
// dtype and device of the operands.
ds_status ds_aten_linear_cpu(const ds_context *context, const ds_linear_params *params,
                             const ds_tensor *like);

#endif
