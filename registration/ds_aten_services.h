// The services of operators on a torch machine: scratch memory from torch's allocator, attention from
// ATen, matrix products from ATen on the CPU and from the CUDA module elsewhere.
#ifndef DS_ATEN_SERVICES_H
#define DS_ATEN_SERVICES_H

#include "ds_context.h"
#include "ds_services.h"
#include "ds_torch.h"

typedef struct ds_aten_services {
  ds_services table; // its host is this struct
  ds_context *context;
  const char *op;                     // for messages: "block_forward"
  ds_tensor like;                     // dtype and device of the call's tensors
  int precision_is_known, allow_tf32; // of float32 products on CUDA
  int asked_torch;                    // for what its settings decide, or to enqueue work
  AtenTensorHandle scratch;
  AtenTensorHandle attention; // the last result of attention
} ds_aten_services;

// Fills `services` for a call of `op` on tensors like `like`. Acquires nothing.
void ds_aten_services_begin(ds_aten_services *services, ds_context *context, const char *op,
                            const ds_tensor *like);

// Releases what the services handed out.
void ds_aten_services_end(ds_aten_services *services);

#endif
