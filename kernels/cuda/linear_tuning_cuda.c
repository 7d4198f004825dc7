#include "linear_tuning_cuda.h"

// Rounds over the candidates left after the first look, of which the fastest time counts: whatever else the
// device does at that moment can only add to a time.
enum { ROUNDS = 5, MOST_FINALISTS = 6 };

// A candidate this much slower than the best at the first look is out.
static const float OUTSIDE_CHANCE = 1.25f;

// Another algorithm than the first has to take at most this share of its time.
static const float CLEAR_GAIN = 0.97f;

_Static_assert(DS_LINEAR_MOST_CANDIDATES < DS_LINEAR_TUNER_EVENTS, "each candidate lies between two events");

// What lies between two events: long enough for the events' resolution, about a microsecond on some GPUs.
enum { MEASURED_US = 40, MOST_REPEATS = 8 };

// What may be spent on the first look: of a product of 0.7 milliseconds or more, only one candidate is seen.
enum { FIRST_LOOK_US = 4000 };

// About what the host needs to enqueue a product and its share of events.
enum { ENQUEUE_US = 4 };

// Products beyond this take the first candidate: just to time that would take long.
static const double MOST_OPERATIONS = 1e12;

// In a model each product reads weights that were not used for long, and an input that was just written. So
// weights come in copies, which together do not fit in the cache.
enum { MOST_COPIES = 128, ALIGNMENT = 256, BIAS_ALIGNMENT = 16 };

typedef struct layout {
  size_t input, weights, bias, residual, output, workspace; // offsets
  size_t weight_bytes;
  int copies;
  size_t bytes; // of all
} layout;

typedef struct trial {
  const ds_cublaslt *library;
  cublasLtHandle_t handle;
  const ds_linear_tuner *tuner;
  const ds_linear_key *key;
  const ds_linear_candidates *candidates;
  layout places;
  char *memory;
  ds_linear_descriptors descriptors;
  int copy;                                 // of the weight, that the next product reads
  int favourite;                            // the first candidate that runs: the library's own choice
  int left[DS_LINEAR_MOST_CANDIDATES];      // candidates still in the race
  int count;                                // of those
  float best_us[DS_LINEAR_MOST_CANDIDATES]; // by candidate; 0: not timed
} trial;

static size_t round_up(size_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

// Operands are no better aligned than those of the key.
static size_t offset_of(int64_t alignment) {
  return alignment > 0 && alignment < ALIGNMENT ? (size_t)alignment : 0;
}

static size_t operand_bytes(const ds_linear_key *key, int64_t rows, int64_t cols, int64_t row_stride,
                            int64_t alignment) {
  const size_t elements = (size_t)((rows - 1) * row_stride + cols);
  return round_up(offset_of(alignment) + elements * ds_dtype_bytes((ds_dtype)key->dtype));
}

// Places the operands one behind the other, with as many copies of the weight as the cache calls for and the
// budget allows. 0 where not even one fits.
static int plan_memory(const ds_linear_key *key, size_t l2_bytes, size_t budget, layout *places) {
  const int64_t rows = key->rows, in = key->in_features, out = key->out_features;
  size_t end = 0;
  places->input = end + offset_of(key->input_alignment);
  end += operand_bytes(key, rows, in, key->input_row_stride, key->input_alignment);
  places->output = end + offset_of(key->output_alignment);
  end += operand_bytes(key, rows, out, key->output_row_stride, key->output_alignment);
  places->residual = end + offset_of(key->residual_alignment);
  if (key->has_residual)
    end += operand_bytes(key, rows, out, key->residual_row_stride, key->residual_alignment);
  // A bias is never less aligned than kernels need, even where the output, with which it shares a field, is.
  const int64_t bias_alignment =
      key->output_alignment < BIAS_ALIGNMENT ? BIAS_ALIGNMENT : key->output_alignment;
  places->bias = end + offset_of(bias_alignment);
  if (key->has_bias) end += operand_bytes(key, 1, out, out, bias_alignment);
  places->workspace = end;
  end += round_up((size_t)key->workspace_bytes);
  places->weights = end + offset_of(key->weight_alignment);
  places->weight_bytes = operand_bytes(key, out, in, key->weight_row_stride, key->weight_alignment);
  if (end > budget || places->weight_bytes > budget - end) return 0;
  const size_t wanted = 2 * l2_bytes / places->weight_bytes + 1;
  const size_t possible = (budget - end) / places->weight_bytes;
  const size_t copies = wanted < possible ? wanted : possible;
  places->copies = copies < MOST_COPIES ? (int)copies : MOST_COPIES;
  places->bytes = end + (size_t)places->copies * places->weight_bytes;
  return 1;
}

static int is_small_enough(const ds_linear_key *key) {
  const double operations = 2.0 * (double)key->rows * (double)key->in_features * (double)key->out_features;
  return operations <= MOST_OPERATIONS;
}

// Whether the candidate could be enqueued.
static int enqueue(trial *self, int candidate) {
  const layout *places = &self->places;
  const ds_linear_operands operands = {
      .input = self->memory + places->input,
      .weight = self->memory + places->weights + (size_t)self->copy * places->weight_bytes,
      .residual = self->key->has_residual ? self->memory + places->residual : NULL,
      .output = self->memory + places->output,
      .workspace = self->memory + places->workspace,
      .workspace_bytes = (size_t)self->key->workspace_bytes};
  self->copy = (self->copy + 1) % places->copies;
  return ds_linear_multiply(self->library, self->handle, &self->descriptors, &operands,
                            &self->candidates->algorithms[candidate],
                            self->tuner->stream) == CUBLAS_STATUS_SUCCESS;
}

// Adds a candidate, if it runs at all. The library loads its kernels.
static void admit(trial *self, int candidate) {
  if (enqueue(self, candidate)) self->left[self->count++] = candidate;
}

// Times all that are left, `repeats` products each, and keeps the shortest time of one product. 0: a failure.
static int time_once(trial *self, int repeats) {
  float us[DS_LINEAR_MOST_CANDIDATES];
  const unsigned hold_us = (unsigned)(self->count * repeats * ENQUEUE_US);
  if (ds_linear_tuner_hold(hold_us, self->tuner->stream) != DS_OK) return 0;
  if (!ds_linear_tuner_mark(self->tuner, 0)) return 0;
  for (int i = 0; i < self->count; i++) {
    for (int repeat = 0; repeat < repeats; repeat++)
      if (!enqueue(self, self->left[i])) return 0;
    if (!ds_linear_tuner_mark(self->tuner, i + 1)) return 0;
  }
  if (!ds_linear_tuner_read(self->tuner, self->count, us)) return 0;
  for (int i = 0; i < self->count; i++) {
    float *best = &self->best_us[self->left[i]];
    const float one_us = us[i] / (float)repeats;
    if (*best == 0.0f || one_us < *best) *best = one_us;
  }
  return 1;
}

// Those left, fastest first.
static void sort(trial *self) {
  for (int i = 1; i < self->count; i++) {
    const int candidate = self->left[i];
    int place = i;
    for (; place > 0 && self->best_us[candidate] < self->best_us[self->left[place - 1]]; place--)
      self->left[place] = self->left[place - 1];
    self->left[place] = candidate;
  }
}

// Keeps the finalists, and the favourite whatever its time was: it is what they are held against.
static void drop_slow(trial *self) {
  int kept = 0, has_favourite = 0;
  sort(self);
  const float limit = self->best_us[self->left[0]] * OUTSIDE_CHANCE;
  while (kept < self->count && kept < MOST_FINALISTS && self->best_us[self->left[kept]] <= limit)
    has_favourite |= self->left[kept++] == self->favourite;
  if (!has_favourite) self->left[kept == MOST_FINALISTS ? kept - 1 : kept++] = self->favourite;
  self->count = kept;
}

static int limited(float value, int highest) {
  return value < 1.0f ? 1 : value > (float)highest ? highest : (int)value;
}

// Looks at the favourite alone, then at as many others as its time allows. Twice, as one disturbance must not
// put a candidate out; and after a run of each that may have loaded kernels.
static int look_at_all(trial *self) {
  const int found = self->candidates->count;
  for (self->favourite = 0; self->favourite < found; self->favourite++) {
    admit(self, self->favourite);
    if (self->count != 0) break;
  }
  if (self->count == 0 || !time_once(self, 1) || !time_once(self, 1)) return 0;
  const int most = limited(FIRST_LOOK_US / (3.0f * self->best_us[self->favourite]), found);
  for (int i = self->favourite + 1; i < found && self->count < most; i++) admit(self, i);
  return self->count == 1 || (time_once(self, 1) && time_once(self, 1));
}

static int run_final(trial *self) {
  drop_slow(self);
  const int repeats = limited(MEASURED_US / self->best_us[self->left[0]], MOST_REPEATS);
  for (int i = 0; i < self->count; i++) self->best_us[self->left[i]] = 0.0f;
  for (int round = 0; round < ROUNDS; round++)
    if (!time_once(self, repeats)) return 0;
  sort(self);
  return 1;
}

static void race(trial *self, ds_linear_comparison *comparison) {
  const int looked = look_at_all(self);
  if (self->count != 0) comparison->chosen = self->favourite;
  if (!looked) return;
  const int measured = self->count;
  if (measured > 1 && !run_final(self)) return;
  const float favourite_us = self->best_us[self->favourite], fastest_us = self->best_us[self->left[0]];
  comparison->chosen = fastest_us <= CLEAR_GAIN * favourite_us ? self->left[0] : self->favourite;
  comparison->measured = measured;
  comparison->favourite_us = favourite_us;
  comparison->chosen_us = self->best_us[comparison->chosen];
}

static void race_on(trial *self, ds_linear_comparison *comparison) {
  const ds_linear_key *key = self->key;
  const void *bias = key->has_bias ? self->memory + self->places.bias : NULL;
  if (ds_linear_tuner_fill(self->memory, self->places.bytes, (ds_dtype)key->dtype, self->tuner->stream) !=
      DS_OK)
    return;
  if (ds_linear_describe(self->library, key, bias, &self->descriptors) != DS_OK) return;
  race(self, comparison);
  ds_linear_release(self->library, &self->descriptors);
}

void ds_linear_compare(const ds_cublaslt *library, cublasLtHandle_t handle, const ds_linear_tuner *tuner,
                       const ds_linear_key *key, const ds_linear_candidates *candidates,
                       ds_linear_comparison *comparison) {
  *comparison = (ds_linear_comparison){0};
  trial self = {.library = library, .handle = handle, .tuner = tuner, .key = key, .candidates = candidates};
  if (candidates->count < 2 || !is_small_enough(key)) return;
  if (!plan_memory(key, tuner->l2_bytes, ds_linear_tuner_budget(), &self.places)) return;
  self.memory = ds_linear_tuner_allocate(tuner, self.places.bytes);
  if (self.memory == NULL) return;
  race_on(&self, comparison);
  ds_linear_tuner_free(tuner, self.memory);
}
