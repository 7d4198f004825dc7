// Matrix products through cuBLASLt: contract in ds_linear_params.h.
#include "ds_cuda_device.h"
#include "ds_kernels_cuda.h"
#include "linear_direct_cuda.h"
#include "linear_plan_cuda.h"
#include <stdint.h>

// The library's kernels read a bias in vectors and, unlike for matrices, there is no way to tell it a lower
// alignment. So a bias that starts between is copied to the front of the workspace first.
enum { BIAS_ALIGNMENT = 16 };

// What an address is a multiple of: kernels tell the alignments up to a vector's apart, and that of an
// allocation is what the library takes for granted where it is not told.
enum { VECTOR_ALIGNMENT = 16, MOST_ALIGNMENT = 256 };

static int64_t alignment_of(const void *address) {
  if ((uintptr_t)address % MOST_ALIGNMENT == 0) return MOST_ALIGNMENT;
  const uintptr_t bits = (uintptr_t)address | VECTOR_ALIGNMENT;
  return (int64_t)(bits & (~bits + 1));
}

// What a copy of the bias takes of the workspace; 0 where the bias can be read as it is.
static size_t bias_copy_bytes(const ds_linear_params *params) {
  if (params->bias == NULL || alignment_of(params->bias) >= BIAS_ALIGNMENT) return 0;
  const size_t bytes = (size_t)params->out_features * ds_dtype_bytes(params->dtype);
  return (bytes + MOST_ALIGNMENT - 1) / MOST_ALIGNMENT * MOST_ALIGNMENT;
}

static int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// `rows` rows of `cols` elements that cuBLASLt can describe: one row, or rows that do not overlap.
static int is_matrix(int64_t rows, int64_t cols, int64_t row_stride) {
  return cols <= INT32_MAX && (rows <= 1 || (row_stride >= cols && row_stride <= INT32_MAX));
}

static int fits_cublaslt(const ds_linear_params *params) {
  return params->in_features > 0 && params->out_features <= INT32_MAX &&
         is_matrix(params->rows, params->in_features, params->input_row_stride) &&
         is_matrix(params->out_features, params->in_features, params->weight_row_stride) &&
         is_matrix(params->rows, params->out_features, params->output_row_stride) &&
         (params->residual == NULL ||
          is_matrix(params->rows, params->out_features, params->residual_row_stride)) &&
         bias_copy_bytes(params) <= params->workspace_bytes;
}

// The row stride of a single row is never used, but must look like one.
static int64_t leading_dimension(int64_t rows, int64_t cols, int64_t row_stride) {
  return rows <= 1 ? cols : row_stride;
}

static ds_linear_key key_of(const ds_linear_params *params, int device) {
  const int64_t bias_alignment = params->bias == NULL ? MOST_ALIGNMENT : alignment_of(params->bias);
  const int64_t rows = params->rows, in = params->in_features, out = params->out_features;
  return (ds_linear_key){
      .device = device,
      .dtype = params->dtype,
      .allow_tf32 = params->dtype == DS_FLOAT32 && params->allow_tf32 != 0,
      .rows = rows,
      .in_features = in,
      .out_features = out,
      .input_row_stride = leading_dimension(rows, in, params->input_row_stride),
      .weight_row_stride = leading_dimension(out, in, params->weight_row_stride),
      .residual_row_stride =
          params->residual == NULL ? 0 : leading_dimension(rows, out, params->residual_row_stride),
      .output_row_stride = leading_dimension(rows, out, params->output_row_stride),
      .input_alignment = alignment_of(params->input),
      .weight_alignment = alignment_of(params->weight),
      .residual_alignment = params->residual == NULL ? 0 : alignment_of(params->residual),
      .output_alignment = smaller(alignment_of(params->output), bias_alignment),
      .has_bias = params->bias != NULL,
      .has_residual = params->residual != NULL,
      .workspace_bytes = (int64_t)params->workspace_bytes,
  };
}

static ds_status multiply(const ds_cublaslt *library, cublasLtHandle_t handle, int device,
                          const ds_linear_params *params, void *stream) {
  const ds_linear_key key = key_of(params, device);
  ds_linear_descriptors descriptors;
  ds_linear_plan plan;
  DS_CHECK(ds_linear_describe(library, &key, params->bias, &descriptors));
  ds_status status = ds_linear_find_plan(library, handle, &key, &descriptors, (cudaStream_t)stream, &plan);
  if (status == DS_OK && !plan.supported) {
    status = ds_linear_direct_cuda(params, stream);
  } else if (status == DS_OK) {
    const ds_linear_operands operands = {params->input,  params->weight,    params->residual,
                                         params->output, params->workspace, params->workspace_bytes};
    const cublasStatus_t result =
        ds_linear_multiply(library, handle, &descriptors, &operands, &plan.algorithm, (cudaStream_t)stream);
    if (result != CUBLAS_STATUS_SUCCESS)
      status = ds_cublaslt_error(library, "the matrix product of cuBLASLt", result);
  }
  ds_linear_release(library, &descriptors);
  return status;
}

// Makes the bias of *params one that the library can read.
static ds_status align_bias(ds_linear_params *params, void *stream) {
  const size_t copy_bytes = bias_copy_bytes(params);
  if (copy_bytes == 0) return DS_OK;
  const size_t bytes = (size_t)params->out_features * ds_dtype_bytes(params->dtype);
  const cudaError_t error =
      cudaMemcpyAsync(params->workspace, params->bias, bytes, cudaMemcpyDeviceToDevice, (cudaStream_t)stream);
  if (error != cudaSuccess) return ds_cuda_error("copying a bias to an aligned address", error);
  params->bias = params->workspace;
  params->workspace = (char *)params->workspace + copy_bytes;
  params->workspace_bytes -= copy_bytes;
  return DS_OK;
}

// Some of the library's kernels count elements in 32 bits: more than that are several products. All but the
// last have a multiple of 128 rows, which keeps addresses aligned.
static int64_t rows_at_once(const ds_linear_params *params) {
  int64_t widest = params->input_row_stride;
  if (params->output_row_stride > widest) widest = params->output_row_stride;
  if (params->residual != NULL && params->residual_row_stride > widest) widest = params->residual_row_stride;
  if (params->rows <= 1 || params->rows <= INT32_MAX / widest) return params->rows;
  const int64_t most = INT32_MAX / widest;
  return most > 128 ? most / 128 * 128 : most;
}

static const void *advanced(const void *data, int64_t elements, ds_dtype dtype) {
  return data == NULL ? NULL : (const char *)data + elements * (int64_t)ds_dtype_bytes(dtype);
}

static ds_linear_params rows_of(const ds_linear_params *params, int64_t first, int64_t rows) {
  ds_linear_params part = *params;
  part.rows = rows;
  part.input = advanced(params->input, first * params->input_row_stride, params->dtype);
  part.residual = advanced(params->residual, first * params->residual_row_stride, params->dtype);
  part.output =
      (char *)params->output + first * params->output_row_stride * (int64_t)ds_dtype_bytes(params->dtype);
  return part;
}

static ds_status multiply_all(const ds_linear_params *params, void *stream) {
  const ds_cublaslt *library;
  cublasLtHandle_t handle;
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return ds_cuda_error("reading the current CUDA device", error);
  DS_CHECK(ds_cublaslt_open(&library));
  DS_CHECK(ds_cublaslt_handle(library, device, &handle));

  ds_linear_params aligned = *params;
  DS_CHECK(align_bias(&aligned, stream));
  const int64_t step = rows_at_once(params);
  for (int64_t first = 0; first < params->rows; first += step) {
    const ds_linear_params part = rows_of(&aligned, first, smaller(params->rows - first, step));
    DS_CHECK(multiply(library, handle, device, &part, stream));
  }
  return DS_OK;
}

ds_status ds_linear_cuda(const ds_linear_params *params, void *stream) {
  if (params->rows == 0 || params->out_features == 0) return DS_OK;
  if (ds_dtype_bytes(params->dtype) == 0)
    return ds_error(DS_E_DTYPE, "linear: dtype %s is not supported", ds_dtype_name(params->dtype));
  if (!fits_cublaslt(params)) return ds_linear_direct_cuda(params, stream);
  // The library loads its kernels when they are first used.
  const enum cudaStreamCaptureMode previous = ds_cuda_begin_relaxed();
  const ds_status status = multiply_all(params, stream);
  ds_cuda_end_relaxed(previous);
  return status;
}
