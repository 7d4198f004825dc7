// layer_norm of rows of aligned 16-byte accesses, held in registers by as many threads as that takes: a part
// of a warp for 320 columns, a block for thousands.
#ifndef DS_LAYER_NORM_VECTORS_KERNEL_CUH
#define DS_LAYER_NORM_VECTORS_KERNEL_CUH

#include "layer_norm_rows.cuh"

namespace {

// Which operands there are, where the compiler is to know: then nothing branches between their loads.
enum class vector_form {
  plain,    // gamma and beta
  residual, // every one
  any
};

// Whether there is a bias, a residual or a sum to store.
template <vector_form FORM>
__device__ bool has_summand(const void *operand) {
  return FORM == vector_form::residual || (FORM == vector_form::any && operand != NULL);
}
// Whether there is a gamma or a beta.
template <vector_form FORM>
__device__ bool has_weight(const void *operand) {
  return FORM != vector_form::any || operand != NULL;
}

// What a thread holds of a row: ITEMS vectors, `step` columns apart from `first` on. A row of exactly
// ITEMS · THREADS vectors has offsets that the compiler knows; with THREADS 0, a row has blockDim.x threads
// and may end earlier. Indices into values are compile-time constants, so that they stay in registers.
template <typename T, int ITEMS, int THREADS>
struct row_vectors {
  static constexpr int width = ds_vector_width<T>;
  typedef ds_pack<T, width> packs[ITEMS];
  float values[ITEMS][width];
  int first;
  int cols;

  __device__ row_vectors(int cols) : first((int)threadIdx.x * width), cols(cols) {}

  __device__ int col(int item) const {
    return first + item * (THREADS > 0 ? THREADS : (int)blockDim.x) * width;
  }
  __device__ bool holds(int item) const { return THREADS > 0 || col(item) < cols; }

  // Zeros past the last column.
  __device__ ds_pack<T, width> load(const T *row, int item) const {
    return ds_load_if<T, width>(holds(item), row + col(item));
  }

  // values = input + bias + residual.
  template <vector_form FORM>
  __device__ void load_sum(const row_operands<T> &row) {
    packs input, residual;
#pragma unroll
    for (int i = 0; i < ITEMS; i++) input[i] = load(row.input, i);
    if (has_summand<FORM>(row.residual))
#pragma unroll
      for (int i = 0; i < ITEMS; i++) residual[i] = load(row.residual, i);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
      ds_unpack(input[i], values[i]);
      if (has_summand<FORM>(row.bias)) ds_add_pack(load(row.bias, i), values[i]);
      if (has_summand<FORM>(row.residual)) ds_add_pack(residual[i], values[i]);
    }
  }

  // Summed vector by vector, which shortens the chain of dependent additions.
  __device__ float total() const {
    float result = 0.0f;
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < width; j++) sum += values[i][j];
      result += sum;
    }
    return result;
  }

  __device__ ds_moments moments_about(float mean) const {
    ds_moments result = {};
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
      ds_moments moments = {};
#pragma unroll
      for (int j = 0; j < width; j++) add_deviation(moments, values[i][j] - mean);
      if (holds(i)) result = result + moments;
    }
    return result;
  }

  // (values - mean) · scale · gamma + beta, each vector stored before the next one's gamma and beta are
  // loaded: that leaves registers for more rows on a multiprocessor. A single vector's are loaded by then, in
  // gammas and betas.
  template <vector_form FORM>
  __device__ void store_normalised(row_statistics row, const T *gamma, const T *beta, packs &gammas,
                                   packs &betas, bool inside, T *output) {
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
      if (has_weight<FORM>(gamma) && ITEMS > 1) gammas[i] = load(gamma, i);
      if (has_weight<FORM>(beta) && ITEMS > 1) betas[i] = load(beta, i);
#pragma unroll
      for (int j = 0; j < width; j++) values[i][j] = (values[i][j] - row.mean) * row.scale;
      if (has_weight<FORM>(gamma)) ds_multiply_pack(gammas[i], values[i]);
      if (has_weight<FORM>(beta)) ds_add_pack(betas[i], values[i]);
      if (inside && holds(i)) ds_store_floats(output + col(i), values[i]);
    }
  }

  __device__ void store(T *row) const {
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
      if (holds(i)) ds_store_floats(row + col(i), values[i]);
  }
};

template <typename T, int ITEMS, int THREADS, vector_form FORM>
__device__ void normalise_vectors(const ds_layer_norm_params &params, const ds_origin &origin) {
  __shared__ float partial_sums[DS_WARP];
  __shared__ ds_moments partial_moments[DS_WARP];
  using vectors = row_vectors<T, ITEMS, THREADS>;
  const block_row place(origin, params.rows);
  const row_operands<T> row = locate_row<T>(params, place.row);
  const T *const gamma = static_cast<const T *>(params.gamma), *const beta =
                                                                   static_cast<const T *>(params.beta);
  const int cols = THREADS > 0 ? THREADS * ITEMS * vectors::width : (int)params.cols;
  const float inverse_cols = 1.0f / (float)cols;
  vectors part(cols);
  typename vectors::packs gammas, betas;

  ds_wait_for_stream();
  if (has_weight<FORM>(gamma) && ITEMS == 1) gammas[0] = part.load(gamma, 0);
  if (has_weight<FORM>(beta) && ITEMS == 1) betas[0] = part.load(beta, 0);
  part.template load_sum<FORM>(row);
  if (has_summand<FORM>(params.sum) && place.inside)
    part.store(static_cast<T *>(params.sum) + place.row * cols);
  const float near_mean = ds_sum_row<THREADS>(part.total(), partial_sums) * inverse_cols;
  const ds_moments moments = ds_sum_row<THREADS>(part.moments_about(near_mean), partial_moments);
  part.template store_normalised<FORM>(statistics_about(near_mean, moments, inverse_cols, params.epsilon),
                                       gamma, beta, gammas, betas, place.inside,
                                       static_cast<T *>(params.output) + place.row * cols);
}

// Five make rows of 320, 640 and 1280 16-bit elements those of 8, 16 and 32 threads.
constexpr int VECTOR_ITEMS = 5;

// ---- rows of exactly so many vectors, with the usual operands ----

constexpr int EXACT_BLOCK_THREADS = 128;

// The registers of eight blocks, 64 a thread, are enough without a residual. A multiprocessor then has its
// share of 8192 rows of 640 elements under way at once. With one they are not: its loads would wait for the
// input's.
template <vector_form FORM>
constexpr int exact_blocks = FORM == vector_form::plain ? 8 : 6;

template <typename T, int THREADS, vector_form FORM>
__global__ void __launch_bounds__(EXACT_BLOCK_THREADS, exact_blocks<FORM>)
    layer_norm_exact_vectors_kernel(const __grid_constant__ ds_layer_norm_params params, ds_origin origin) {
  normalise_vectors<T, VECTOR_ITEMS, THREADS, FORM>(params, origin);
}

// The threads of a row that they share evenly; 0 if there is no kernel for so many.
template <typename T>
int exact_threads(int64_t cols) {
  constexpr int part = VECTOR_ITEMS * ds_vector_width<T>;
  return cols == 8 * part ? 8 : cols == 16 * part ? 16 : cols == 32 * part ? 32 : 0;
}

template <typename T, int THREADS, vector_form FORM>
ds_status launch_exact(const ds_layer_norm_params &params, void *stream) {
  constexpr int block_rows = EXACT_BLOCK_THREADS / THREADS;
  const ds_blocks blocks = {params.rows, 1, block_rows, 1, dim3(THREADS, block_rows), 0};
  return ds_launch_blocks_early(op, layer_norm_exact_vectors_kernel<T, THREADS, FORM>, blocks, stream,
                                params);
}

template <typename T, vector_form FORM>
ds_status launch_exact(int threads, const ds_layer_norm_params &params, void *stream) {
  return threads == 8    ? launch_exact<T, 8, FORM>(params, stream)
         : threads == 16 ? launch_exact<T, 16, FORM>(params, stream)
                         : launch_exact<T, 32, FORM>(params, stream);
}

// ---- any rows ----

// What leaves enough registers for each thread's vectors.
template <int ITEMS>
constexpr int vector_max_threads = ITEMS == 1 ? 1024 : 768;

template <typename T, int ITEMS>
__global__ void __launch_bounds__(vector_max_threads<ITEMS>)
    layer_norm_vectors_kernel(const __grid_constant__ ds_layer_norm_params params, ds_origin origin) {
  normalise_vectors<T, ITEMS, 0, vector_form::any>(params, origin);
}

template <typename T, int ITEMS>
constexpr int64_t vector_max_cols = (int64_t)vector_max_threads<ITEMS> *ITEMS *ds_vector_width<T>;

template <typename T, int ITEMS>
dim3 vector_block(int64_t cols) {
  return row_block(ds_ceil_div(cols, ITEMS * ds_vector_width<T>), vector_max_threads<ITEMS>);
}

template <typename T, int ITEMS>
ds_status launch_any_vectors(const ds_layer_norm_params &params, void *stream) {
  const dim3 block = vector_block<T, ITEMS>(params.cols);
  const ds_blocks blocks = {params.rows, 1, block.y, 1, block, 0};
  return ds_launch_blocks_early(op, layer_norm_vectors_kernel<T, ITEMS>, blocks, stream, params);
}

// ---- choice ----

template <typename T>
bool allows_vectors(const ds_layer_norm_params &params) {
  return params.cols % ds_vector_width<T> == 0 && params.cols <= vector_max_cols<T, VECTOR_ITEMS> &&
         ds_is_aligned(params.input, sizeof(T)) && ds_is_aligned(params.residual, sizeof(T)) &&
         ds_is_aligned(params.bias) && ds_is_aligned(params.gamma) && ds_is_aligned(params.beta) &&
         ds_is_aligned(params.output) && ds_is_aligned(params.sum);
}

// Whether the rows are so few that all are under way at once even with a thread for each vector, which makes
// each of them sooner done.
template <typename T>
bool has_few_rows(const ds_layer_norm_params &params, const ds_cuda_device &device) {
  constexpr int64_t threads = 1024; // of a multiprocessor
  return params.cols <= vector_max_cols<T, 1> &&
         params.rows <= device.multiprocessors * threads / vector_block<T, 1>(params.cols).x;
}

template <typename T>
ds_status launch_vectors(const ds_layer_norm_params &params, void *stream) {
  ds_cuda_device device;
  DS_CHECK(ds_cuda_current_device(&device));
  if (has_few_rows<T>(params, device)) return launch_any_vectors<T, 1>(params, stream);
  const int threads = exact_threads<T>(params.cols);
  if (threads > 0 && params.gamma != NULL && params.beta != NULL) {
    const bool residual = params.residual.data != NULL, bias = params.bias != NULL, sum = params.sum != NULL;
    if (!residual && !bias && !sum) return launch_exact<T, vector_form::plain>(threads, params, stream);
    if (residual && bias && sum) return launch_exact<T, vector_form::residual>(threads, params, stream);
  }
  return launch_any_vectors<T, VECTOR_ITEMS>(params, stream);
}

} // namespace

#endif
