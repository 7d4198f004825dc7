// Which of cuBLASLt's algorithms for a product is the fastest here: measured on the side, on operands of its
// own.
#ifndef DS_LINEAR_TUNING_CUDA_H
#define DS_LINEAR_TUNING_CUDA_H

#include "linear_plan_cuda.h"
#include "linear_tuner_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

// What was found, for those who want to know.
typedef struct ds_linear_comparison {
  int chosen;         // index of the candidate
  int measured;       // how many candidates were; 0: no memory, a failure, or too large a product
  float favourite_us; // time of the first candidate that runs
  float chosen_us;    // and of the chosen one
} ds_linear_comparison;

// Times the candidates for `key` on the tuner's stream, which it waits for, and on nothing else. The first
// candidate stays chosen unless another is faster by more than measurements scatter. Takes some milliseconds.
// Failures leave the first candidate chosen, too: the product itself meets them again, if they matter.
void ds_linear_compare(const ds_cublaslt *library, cublasLtHandle_t handle, const ds_linear_tuner *tuner,
                       const ds_linear_key *key, const ds_linear_candidates *candidates,
                       ds_linear_comparison *comparison);

#ifdef __cplusplus
}
#endif
#endif
