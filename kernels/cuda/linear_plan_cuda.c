#include "linear_plan_cuda.h"
#include "linear_plan_cache_cuda.h"

// Whatever the inputs are, they are accumulated in float32.
static const cudaDataType_t scale_type = CUDA_R_32F;

static cublasComputeType_t compute_type(const ds_linear_key *key) {
  return key->allow_tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

static cudaDataType_t data_type(int64_t dtype) {
  return dtype == DS_FLOAT16 ? CUDA_R_16F : dtype == DS_BFLOAT16 ? CUDA_R_16BF : CUDA_R_32F;
}

// Goes on to the next call while all is well.
#define DS_CUBLASLT_TRY(call)                                                                                \
  do {                                                                                                       \
    if (status == CUBLAS_STATUS_SUCCESS) status = library->call;                                             \
  } while (0)

ds_status ds_linear_describe(const ds_cublaslt *library, const ds_linear_key *key, const void *bias,
                             ds_linear_descriptors *descriptors) {
  const cudaDataType_t type = data_type(key->dtype);
  const uint64_t rows = (uint64_t)key->rows, in = (uint64_t)key->in_features,
                 out = (uint64_t)key->out_features;
  const int64_t residual_row_stride = key->has_residual ? key->residual_row_stride : key->output_row_stride;
  const cublasOperation_t transpose = CUBLAS_OP_T;
  const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;

  *descriptors = (ds_linear_descriptors){0};
  DS_CUBLASLT_TRY(cublasLtMatrixLayoutCreate(&descriptors->weight, type, in, out, key->weight_row_stride));
  DS_CUBLASLT_TRY(cublasLtMatrixLayoutCreate(&descriptors->input, type, in, rows, key->input_row_stride));
  DS_CUBLASLT_TRY(cublasLtMatrixLayoutCreate(&descriptors->residual, type, out, rows, residual_row_stride));
  DS_CUBLASLT_TRY(cublasLtMatrixLayoutCreate(&descriptors->output, type, out, rows, key->output_row_stride));
  DS_CUBLASLT_TRY(cublasLtMatmulDescCreate(&descriptors->operation, compute_type(key), scale_type));
  DS_CUBLASLT_TRY(cublasLtMatmulDescSetAttribute(descriptors->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                 &transpose, sizeof transpose));
  if (bias != NULL) {
    DS_CUBLASLT_TRY(cublasLtMatmulDescSetAttribute(descriptors->operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                   &epilogue, sizeof epilogue));
    DS_CUBLASLT_TRY(cublasLtMatmulDescSetAttribute(descriptors->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                   &bias, sizeof bias));
  }
  if (status == CUBLAS_STATUS_SUCCESS) return DS_OK;
  ds_linear_release(library, descriptors);
  return ds_cublaslt_error(library, "describing a matrix product to cuBLASLt", status);
}

void ds_linear_release(const ds_cublaslt *library, ds_linear_descriptors *descriptors) {
  if (descriptors->operation != NULL) library->cublasLtMatmulDescDestroy(descriptors->operation);
  if (descriptors->output != NULL) library->cublasLtMatrixLayoutDestroy(descriptors->output);
  if (descriptors->residual != NULL) library->cublasLtMatrixLayoutDestroy(descriptors->residual);
  if (descriptors->input != NULL) library->cublasLtMatrixLayoutDestroy(descriptors->input);
  if (descriptors->weight != NULL) library->cublasLtMatrixLayoutDestroy(descriptors->weight);
  *descriptors = (ds_linear_descriptors){0};
}

static cublasStatus_t set_preferences(const ds_cublaslt *library, const ds_linear_key *key,
                                      cublasLtMatmulPreference_t preference) {
  const uint64_t workspace_bytes = (uint64_t)key->workspace_bytes;
  // Partial sums are added in float32, not in the output's type.
  const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const uint32_t alignments[] = {
      (uint32_t)key->weight_alignment, (uint32_t)key->input_alignment,
      (uint32_t)(key->has_residual ? key->residual_alignment : key->output_alignment),
      (uint32_t)key->output_alignment};
  static const cublasLtMatmulPreferenceAttributes_t alignment_attributes[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  DS_CUBLASLT_TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                       &workspace_bytes, sizeof workspace_bytes));
  DS_CUBLASLT_TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                       &reductions, sizeof reductions));
  for (int i = 0; i < 4; i++)
    DS_CUBLASLT_TRY(cublasLtMatmulPreferenceSetAttribute(preference, alignment_attributes[i], &alignments[i],
                                                         sizeof alignments[i]));
  return status;
}

static cublasStatus_t ask(const ds_cublaslt *library, cublasLtHandle_t handle, const ds_linear_key *key,
                          const ds_linear_descriptors *descriptors, ds_linear_plan *plan) {
  cublasLtMatmulPreference_t preference = NULL;
  cublasLtMatmulHeuristicResult_t result = {0};
  int results = 0;
  cublasStatus_t status = library->cublasLtMatmulPreferenceCreate(&preference);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  status = set_preferences(library, key, preference);
  DS_CUBLASLT_TRY(cublasLtMatmulAlgoGetHeuristic(handle, descriptors->operation, descriptors->weight,
                                                 descriptors->input, descriptors->residual,
                                                 descriptors->output, preference, 1, &result, &results));
  library->cublasLtMatmulPreferenceDestroy(preference);
  plan->algorithm = result.algo;
  plan->supported = status == CUBLAS_STATUS_SUCCESS && results > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  return status == CUBLAS_STATUS_NOT_SUPPORTED ? CUBLAS_STATUS_SUCCESS : status;
}

ds_status ds_linear_find_plan(const ds_cublaslt *library, cublasLtHandle_t handle, const ds_linear_key *key,
                              const ds_linear_descriptors *descriptors, ds_linear_plan *plan) {
  if (ds_linear_plan_recall(key, plan)) return DS_OK;
  const cublasStatus_t status = ask(library, handle, key, descriptors, plan);
  if (status != CUBLAS_STATUS_SUCCESS)
    return ds_cublaslt_error(library, "choosing a cuBLASLt algorithm", status);
  ds_linear_plan_remember(key, plan);
  return DS_OK;
}
