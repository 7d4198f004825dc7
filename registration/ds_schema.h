// An operator's schema, as torch.library takes it.
#ifndef DS_SCHEMA_H
#define DS_SCHEMA_H

#include "ds_operator.h"

#define DS_SCHEMA_BYTES 4096 // what the longest schema needs, with room to spare

// Writes "layer_norm(Tensor input, Tensor? gamma=None, …) -> Tensor". Returns whether it fits.
int ds_schema_write(const ds_operator *of, char text[DS_SCHEMA_BYTES]);

#endif
