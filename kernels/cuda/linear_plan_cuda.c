#include "linear_plan_cuda.h"
#include "linear_plan_cache_cuda.h"
#include "linear_tuning_cuda.h"
#include <string.h>

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

cublasStatus_t ds_linear_multiply(const ds_cublaslt *library, cublasLtHandle_t handle,
                                  const ds_linear_descriptors *descriptors,
                                  const ds_linear_operands *operands, const cublasLtMatmulAlgo_t *algorithm,
                                  cudaStream_t stream) {
  const float alpha = 1.0f, beta = operands->residual == NULL ? 0.0f : 1.0f;
  const void *residual = operands->residual == NULL ? operands->output : operands->residual;
  return library->cublasLtMatmul(handle, descriptors->operation, &alpha, operands->weight,
                                 descriptors->weight, operands->input, descriptors->input, &beta, residual,
                                 descriptors->residual, operands->output, descriptors->output, algorithm,
                                 operands->workspace, operands->workspace_bytes, stream);
}

static cublasStatus_t set_preferences(const ds_cublaslt *library, const ds_linear_key *key,
                                      uint64_t workspace_bytes, cublasLtMatmulPreference_t preference) {
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

static int is_new(const ds_linear_candidates *candidates, const cublasLtMatmulAlgo_t *algorithm) {
  for (int i = 0; i < candidates->count; i++)
    if (memcmp(&candidates->algorithms[i], algorithm, sizeof *algorithm) == 0) return 0;
  return 1;
}

// Adds what the heuristic offers within `workspace_bytes`, until there are `most` candidates.
static cublasStatus_t ask(const ds_cublaslt *library, cublasLtHandle_t handle, const ds_linear_key *key,
                          const ds_linear_descriptors *descriptors, uint64_t workspace_bytes, int most,
                          ds_linear_candidates *candidates) {
  cublasLtMatmulPreference_t preference = NULL;
  cublasLtMatmulHeuristicResult_t results[DS_LINEAR_MOST_CANDIDATES] = {0};
  int found = 0;
  cublasStatus_t status = library->cublasLtMatmulPreferenceCreate(&preference);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  status = set_preferences(library, key, workspace_bytes, preference);
  DS_CUBLASLT_TRY(cublasLtMatmulAlgoGetHeuristic(
      handle, descriptors->operation, descriptors->weight, descriptors->input, descriptors->residual,
      descriptors->output, preference, DS_LINEAR_MOST_CANDIDATES, results, &found));
  library->cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS)
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? CUBLAS_STATUS_SUCCESS : status;
  for (int i = 0; i < found && candidates->count < most; i++)
    if (results[i].state == CUBLAS_STATUS_SUCCESS && is_new(candidates, &results[i].algo))
      candidates->algorithms[candidates->count++] = results[i].algo;
  return status;
}

enum { VECTOR_BYTES = 16 };

static int is_operand_aligned(const ds_linear_key *key, int64_t alignment, int64_t row_stride) {
  return alignment >= VECTOR_BYTES &&
         row_stride * (int64_t)ds_dtype_bytes((ds_dtype)key->dtype) % VECTOR_BYTES == 0;
}

// What the heuristic offers behind its first answer can ask for more alignment than it was told of.
static int is_aligned_for_all(const ds_linear_key *key) {
  return is_operand_aligned(key, key->input_alignment, key->input_row_stride) &&
         is_operand_aligned(key, key->weight_alignment, key->weight_row_stride) &&
         is_operand_aligned(key, key->output_alignment, key->output_row_stride) &&
         (!key->has_residual || is_operand_aligned(key, key->residual_alignment, key->residual_row_stride));
}

// Sums of float32 products differ in their error by how they are cut into parts: the first answer, which
// PyTorch takes too, is as exact as PyTorch's.
static int may_take_any(const ds_linear_key *key) {
  return is_aligned_for_all(key) && (key->dtype != DS_FLOAT32 || key->allow_tf32);
}

// Given a workspace, the heuristic may offer one shape of tile again and again, each time summing in more
// parts. Without a workspace it has to offer others: they get the last places.
ds_status ds_linear_find_candidates(const ds_cublaslt *library, cublasLtHandle_t handle,
                                    const ds_linear_key *key, const ds_linear_descriptors *descriptors,
                                    ds_linear_candidates *candidates) {
  enum { WITH_WORKSPACE = 10 };
  const int any = may_take_any(key);
  candidates->count = 0;
  cublasStatus_t status = ask(library, handle, key, descriptors, (uint64_t)key->workspace_bytes,
                              any ? WITH_WORKSPACE : 1, candidates);
  if (status == CUBLAS_STATUS_SUCCESS && (any || candidates->count == 0))
    status = ask(library, handle, key, descriptors, 0, any ? DS_LINEAR_MOST_CANDIDATES : 1, candidates);
  return status == CUBLAS_STATUS_SUCCESS
             ? DS_OK
             : ds_cublaslt_error(library, "choosing a cuBLASLt algorithm", status);
}

static void set_plan(const ds_linear_candidates *candidates, int chosen, int settled, ds_linear_plan *plan) {
  plan->supported = candidates->count != 0;
  plan->settled = settled;
  if (plan->supported) plan->algorithm = candidates->algorithms[chosen];
}

static ds_status take_first(const ds_cublaslt *library, cublasLtHandle_t handle, const ds_linear_key *key,
                            const ds_linear_descriptors *descriptors, int settled, ds_linear_plan *plan) {
  ds_linear_candidates candidates;
  DS_CHECK(ds_linear_find_candidates(library, handle, key, descriptors, &candidates));
  set_plan(&candidates, 0, settled, plan);
  ds_linear_plan_remember(key, plan);
  return DS_OK;
}

static ds_status take_fastest(const ds_cublaslt *library, cublasLtHandle_t handle,
                              const ds_linear_tuner *tuner, const ds_linear_key *key,
                              const ds_linear_descriptors *descriptors, ds_linear_plan *plan) {
  // Another thread may have settled it while this one waited for the tuner.
  if (ds_linear_plan_recall(key, plan) && plan->settled) return DS_OK;
  if (tuner == NULL) return take_first(library, handle, key, descriptors, 1, plan);
  ds_linear_candidates candidates;
  ds_linear_comparison comparison;
  DS_CHECK(ds_linear_find_candidates(library, handle, key, descriptors, &candidates));
  ds_linear_compare(library, handle, tuner, key, &candidates, &comparison);
  set_plan(&candidates, comparison.chosen, 1, plan);
  ds_linear_plan_remember(key, plan);
  return DS_OK;
}

ds_status ds_linear_find_plan(const ds_cublaslt *library, cublasLtHandle_t handle, const ds_linear_key *key,
                              const ds_linear_descriptors *descriptors, cudaStream_t stream,
                              ds_linear_plan *plan) {
  int wanted;
  const int known = ds_linear_plan_recall(key, plan);
  if (known && plan->settled) return DS_OK;
  DS_CHECK(ds_linear_tuning_wanted(&wanted));
  if (!wanted) return take_first(library, handle, key, descriptors, 1, plan);
  if (ds_linear_tuner_is_captured(stream))
    return known ? DS_OK : take_first(library, handle, key, descriptors, 0, plan);
  const ds_linear_tuner *tuner;
  ds_linear_tuner_take((int)key->device, &tuner);
  const ds_status status = take_fastest(library, handle, tuner, key, descriptors, plan);
  ds_linear_tuner_give();
  return status;
}
