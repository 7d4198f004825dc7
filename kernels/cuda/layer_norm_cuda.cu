// Layer normalisation with the sum in front of it: contract in ds_layer_norm_params.h.
//
// Three kernels, all of which read an activation once for mean, variance and result; only rows of more than
// 16384 columns that cannot be held are read again for each step.
#include "ds_cuda_dtype.cuh"
#include "ds_kernels_cuda.h"
#include "layer_norm_columns_kernel.cuh"
#include "layer_norm_tiles_kernel.cuh"
#include "layer_norm_vectors_kernel.cuh"

namespace {

template <typename T>
ds_status launch(const ds_layer_norm_params &params, void *stream) {
  if (ds_rows_are_closer(params.input)) return launch_tiles<T>(params, stream);
  return allows_vectors<T>(params) ? launch_vectors<T>(params, stream) : launch_columns<T>(params, stream);
}

} // namespace

ds_status ds_layer_norm_cuda(const ds_layer_norm_params *params, void *stream) {
  if (params->rows == 0) return DS_OK;
  return ds_with_element(op, params->dtype, [&](auto element) {
    return launch<typename decltype(element)::type>(*params, stream);
  });
}
