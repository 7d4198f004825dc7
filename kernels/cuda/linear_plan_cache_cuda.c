#include "linear_plan_cache_cuda.h"
#include "ds_hash.h"
#include <pthread.h>
#include <string.h>

typedef struct entry {
  ds_linear_key key;
  ds_linear_plan plan;
  uint64_t last_use; // 0: empty
} entry;

static entry entries[DS_LINEAR_PLAN_SETS][DS_LINEAR_PLAN_WAYS];
static uint64_t uses;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static entry *set_of(const ds_linear_key *key) {
  return entries[ds_hash(key, sizeof *key) % DS_LINEAR_PLAN_SETS];
}

static entry *find(entry *set, const ds_linear_key *key) {
  for (int i = 0; i < DS_LINEAR_PLAN_WAYS; i++)
    if (set[i].last_use != 0 && memcmp(&set[i].key, key, sizeof *key) == 0) return &set[i];
  return NULL;
}

static entry *least_recently_used(entry *set) {
  entry *oldest = set;
  for (int i = 1; i < DS_LINEAR_PLAN_WAYS; i++)
    if (set[i].last_use < oldest->last_use) oldest = &set[i];
  return oldest;
}

int ds_linear_plan_recall(const ds_linear_key *key, ds_linear_plan *plan) {
  entry *set = set_of(key);
  pthread_mutex_lock(&mutex);
  entry *known = find(set, key);
  if (known != NULL) {
    *plan = known->plan;
    known->last_use = ++uses;
  }
  pthread_mutex_unlock(&mutex);
  return known != NULL;
}

void ds_linear_plan_remember(const ds_linear_key *key, const ds_linear_plan *plan) {
  entry *set = set_of(key);
  pthread_mutex_lock(&mutex);
  entry *place = find(set, key);
  if (place == NULL || plan->settled || !place->plan.settled) {
    if (place == NULL) place = least_recently_used(set);
    place->key = *key;
    place->plan = *plan;
  }
  place->last_use = ++uses;
  pthread_mutex_unlock(&mutex);
}
