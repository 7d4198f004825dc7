// How cuBLASLt is to run a product: chosen once for each kind of call, then remembered.
#ifndef DS_LINEAR_PLAN_CUDA_H
#define DS_LINEAR_PLAN_CUDA_H

#include "ds_cublaslt.h"
#include "ds_linear_params.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// All that the choice depends on. Fields of one width, so that there is no padding and keys compare as bytes.
typedef struct ds_linear_key {
  int64_t device;
  int64_t dtype;
  int64_t allow_tf32; // 0 for other types than float32
  int64_t rows;
  int64_t in_features;
  int64_t out_features;
  int64_t input_row_stride;
  int64_t weight_row_stride;
  int64_t residual_row_stride;
  int64_t output_row_stride;
  int64_t input_alignment; // in bytes: what the address is a multiple of
  int64_t weight_alignment;
  int64_t residual_alignment;
  int64_t output_alignment; // of the output and the bias
  int64_t has_bias;
  int64_t has_residual;
  int64_t workspace_bytes;
} ds_linear_key;

typedef struct ds_linear_plan {
  cublasLtMatmulAlgo_t algorithm;
  int supported; // 0: cuBLASLt has no algorithm for this
  int settled;   // 0: taken unmeasured, under graph capture, and to be measured at the next chance
} ds_linear_plan;

// Algorithms for a kind of product, the one that the library expects most of first.
#define DS_LINEAR_MOST_CANDIDATES 16
typedef struct ds_linear_candidates {
  cublasLtMatmulAlgo_t algorithms[DS_LINEAR_MOST_CANDIDATES];
  int count; // 0: cuBLASLt has none
} ds_linear_candidates;

// The operands of one call as cuBLASLt sees them. It thinks in columns, so the product is the transposed one:
// outputᵀ [out_features, rows] = weight · inputᵀ.
typedef struct ds_linear_descriptors {
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t weight;   // A, transposed
  cublasLtMatrixLayout_t input;    // B
  cublasLtMatrixLayout_t residual; // C: the output's own where there is none
  cublasLtMatrixLayout_t output;   // D
} ds_linear_descriptors;

// Descriptors are made for each call (about a tenth of a microsecond), as the bias is part of them: plans
// without them hold nothing that two threads could change at once.
ds_status ds_linear_describe(const ds_cublaslt *library, const ds_linear_key *key, const void *bias,
                             ds_linear_descriptors *descriptors);

// NULL fields are left out.
void ds_linear_release(const ds_cublaslt *library, ds_linear_descriptors *descriptors);

// Memory of one product. residual NULL: none.
typedef struct ds_linear_operands {
  const void *input;
  const void *weight;
  const void *residual;
  void *output;
  void *workspace;
  size_t workspace_bytes;
} ds_linear_operands;

// Enqueues the product that `descriptors` describe.
cublasStatus_t ds_linear_multiply(const ds_cublaslt *library, cublasLtHandle_t handle,
                                  const ds_linear_descriptors *descriptors,
                                  const ds_linear_operands *operands, const cublasLtMatmulAlgo_t *algorithm,
                                  cudaStream_t stream);

// What the library's heuristic offers for `key`. Costs up to milliseconds.
ds_status ds_linear_find_candidates(const ds_cublaslt *library, cublasLtHandle_t handle,
                                    const ds_linear_key *key, const ds_linear_descriptors *descriptors,
                                    ds_linear_candidates *candidates);

// The plan for `key`: remembered, or chosen from the candidates by measuring them, unless the environment
// says not to (linear_tuner_cuda.h). While `stream`, the one that the product goes to, is captured in a
// graph, it is the first candidate.
ds_status ds_linear_find_plan(const ds_cublaslt *library, cublasLtHandle_t handle, const ds_linear_key *key,
                              const ds_linear_descriptors *descriptors, cudaStream_t stream,
                              ds_linear_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
