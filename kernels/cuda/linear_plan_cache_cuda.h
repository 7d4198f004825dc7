// A bounded memory of plans that any number of threads use at once.
#ifndef DS_LINEAR_PLAN_CACHE_CUDA_H
#define DS_LINEAR_PLAN_CACHE_CUDA_H

#include "linear_plan_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

// A model has tens of kinds of product, and more for each size of image; a full cache forgets one that was
// not used for long. 256 sets of 4, as the place of a key follows from its hash.
#define DS_LINEAR_PLAN_SETS 256
#define DS_LINEAR_PLAN_WAYS 4

// 1 and the plan's copy, or 0 where the key is not known.
int ds_linear_plan_recall(const ds_linear_key *key, ds_linear_plan *plan);

// Of two plans for one key, the last stays, unless only the first is settled.
void ds_linear_plan_remember(const ds_linear_key *key, const ds_linear_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
