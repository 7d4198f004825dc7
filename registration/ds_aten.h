// The ATen operators that the plugin calls, through the dispatcher: so they work on symbolic sizes too, which
// Meta kernels need. Tensor arguments stay the caller's; results are owned by the caller, and NULL after a
// failure.
#ifndef DS_ATEN_H
#define DS_ATEN_H

#include "ds_torch.h"

typedef enum ds_memory_format { DS_CONTIGUOUS_FORMAT, DS_PRESERVE_FORMAT } ds_memory_format;

// torch.empty_like(input, memory_format=…)
ds_status ds_aten_empty_like(AtenTensorHandle input, ds_memory_format format, AtenTensorHandle *result);

// input.contiguous()
ds_status ds_aten_contiguous(AtenTensorHandle input, AtenTensorHandle *result);

// destination.copy_(source)
ds_status ds_aten_copy(AtenTensorHandle destination, AtenTensorHandle source);

// torch.nn.functional.glu(input, dim=-1): for the shape of its result.
ds_status ds_aten_glu(AtenTensorHandle input, AtenTensorHandle *result);

// torch.nn.functional.linear(input, weight)
ds_status ds_aten_linear(AtenTensorHandle input, AtenTensorHandle weight, AtenTensorHandle *result);

// input.transpose(first, second): a view.
ds_status ds_aten_transpose(AtenTensorHandle input, int64_t first, int64_t second, AtenTensorHandle *result);

// torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask); mask may be NULL.
ds_status ds_aten_scaled_dot_product_attention(AtenTensorHandle query, AtenTensorHandle key,
                                               AtenTensorHandle value, AtenTensorHandle mask,
                                               AtenTensorHandle *result);

// An optional value of a stack holds its content in a heap cell of C++'s making, which the receiver frees.
ds_status ds_optional_new(StableIValue content, StableIValue *optional);
StableIValue ds_optional_take(StableIValue optional); // frees the cell; only for a value that is not None (0)

#endif
