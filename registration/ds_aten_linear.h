// Matrix products of CPU tensors through ATen, which has the processor's library of them (oneDNN) behind it.
#ifndef DS_ATEN_LINEAR_H
#define DS_ATEN_LINEAR_H

#include "ds_context.h"
#include "ds_linear_params.h"
#include "ds_torch.h"

// As ds_linear_params.h says, without a residual. `like`: dtype and device of the operands.
ds_status ds_aten_linear_cpu(const ds_context *context, const ds_linear_params *params,
                             const ds_tensor *like);

#endif
