#include "ds_aten_linear.h"
#include "cpu/ds_cpu_dispatch.h"

// `rows` rows of `cols` elements; transposed: seen as its transpose.
static ds_status matrix_view(const ds_tensor *like, const void *data, int64_t rows, int64_t cols,
                             int64_t row_stride, int transposed, AtenTensorHandle *view) {
  const int64_t sizes[2] = {transposed ? cols : rows, transposed ? rows : cols};
  const int64_t strides[2] = {transposed ? 1 : row_stride, transposed ? row_stride : 1};
  return ds_torch_view(data, 2, sizes, strides, like, view);
}

// In ATen's functions that write to a given result, called below the dispatcher: its linear would allocate
// one.
static ds_status multiply(const ds_linear_params *params, const ds_tensor *like) {
  const int64_t one = 1;
  AtenTensorHandle input = NULL, weight = NULL, bias = NULL, output = NULL;
  ds_status status = matrix_view(like, params->input, params->rows, params->in_features,
                                 params->input_row_stride, 0, &input);
  if (status == DS_OK)
    status = matrix_view(like, params->weight, params->out_features, params->in_features,
                         params->weight_row_stride, 1, &weight);
  if (status == DS_OK)
    status = matrix_view(like, params->output, params->rows, params->out_features, params->output_row_stride,
                         0, &output);
  if (status == DS_OK && params->bias != NULL)
    status = ds_torch_view(params->bias, 1, &params->out_features, &one, like, &bias);
  if (status == DS_OK)
    status = bias == NULL ? DS_TORCH(aoti_torch_cpu_mm_out, (output, input, weight))
                          : DS_TORCH(aoti_torch_cpu_addmm_out, (output, bias, input, weight, 1.0, 1.0));
  ds_torch_release(&output);
  ds_torch_release(&bias);
  ds_torch_release(&weight);
  ds_torch_release(&input);
  return status;
}

// Rows on their way between 16 bits and float32, the latter without gaps.
typedef struct conversion {
  const ds_cpu_kernels *kernels;
  ds_dtype dtype;
  int64_t cols;
  const char *narrow;  // to be read
  char *output;        // to be written
  int64_t narrow_step; // bytes from one row to the next of either
  float *wide;
  const float *bias; // added before rounding; NULL: none
} conversion;

static void widen_rows(int64_t begin, int64_t end, void *argument) {
  const conversion *self = argument;
  for (int64_t row = begin; row < end; row++)
    self->kernels->load(self->dtype, self->narrow + row * self->narrow_step, self->cols,
                        self->wide + row * self->cols);
}

static void round_rows(int64_t begin, int64_t end, void *argument) {
  const conversion *self = argument;
  for (int64_t row = begin; row < end; row++) {
    float *const values = self->wide + row * self->cols;
    if (self->bias != NULL)
      for (int64_t i = 0; i < self->cols; i++) values[i] += self->bias[i];
    self->kernels->store(self->dtype, values, self->cols, self->output + row * self->narrow_step);
  }
}

static ds_status convert(const ds_context *context, int64_t rows, ds_range_fn range, conversion *work) {
  enum { WORTHWHILE = 1 << 14 }; // elements for a thread
  return ds_parallel_for(context->parallel_for, 0, rows, WORTHWHILE / work->cols + 1, range, work);
}

// float32 copies of what a widened product reads and writes, in one allocation.
typedef struct wide_operands {
  AtenTensorHandle memory;
  float *input, *weight, *output, *bias;
  int64_t features_at_once;
} wide_operands;

static int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// As many rows of the weight at once as stay in a processor's cache, but enough for a product of its own.
static int64_t features_at_once(const ds_linear_params *params) {
  enum { CACHED = 1 << 20, FEWEST = 256 };
  const int64_t fitting = CACHED / params->in_features;
  return smaller(fitting > FEWEST ? fitting : FEWEST, params->out_features);
}

static ds_status allocate(const ds_linear_params *params, const ds_tensor *like, wide_operands *wide) {
  const int64_t step = features_at_once(params), one = 1;
  const int64_t input = params->rows * params->in_features, weight = step * params->in_features;
  const int64_t output = params->rows * step, total = input + weight + output + params->out_features;
  void *data = NULL;
  DS_CHECK(ds_torch_empty_strided(1, &total, &one, aoti_torch_dtype_float32(), like, &wide->memory));
  DS_CHECK(DS_TORCH(aoti_torch_get_data_ptr, (wide->memory, &data)));
  wide->input = data;
  wide->weight = wide->input + input;
  wide->output = wide->weight + weight;
  wide->bias = wide->output + output;
  wide->features_at_once = step;
  return DS_OK;
}

static ds_status widen_weight(const ds_context *context, const ds_linear_params *params,
                              const wide_operands *wide, int64_t first, int64_t count, conversion work) {
  if (params->scale != NULL) {
    const ds_dequantize_params quantized = {.dtype = DS_FLOAT32,
                                            .rows = count,
                                            .cols = params->in_features,
                                            .weight = (const int8_t *)params->weight +
                                                      first * params->weight_row_stride,
                                            .weight_row_stride = params->weight_row_stride,
                                            .scale = params->scale + first * params->groups,
                                            .groups = params->groups,
                                            .output = wide->weight};
    return work.kernels->dequantize(&quantized, context->parallel_for);
  }
  work.cols = params->in_features;
  work.narrow_step = params->weight_row_stride * (int64_t)ds_dtype_bytes(params->dtype);
  work.narrow = (const char *)params->weight + first * work.narrow_step;
  work.wide = wide->weight;
  return convert(context, count, widen_rows, &work);
}

// Output features from `first` on, as many as are computed at once.
static ds_status multiply_part(const ds_context *context, const ds_linear_params *params,
                               const wide_operands *wide, int64_t first, conversion work) {
  const int64_t bytes = (int64_t)ds_dtype_bytes(params->dtype);
  const int64_t count = smaller(wide->features_at_once, params->out_features - first);
  const ds_tensor like = {.dtype = DS_FLOAT32, .device_type = DS_CPU};
  DS_CHECK(widen_weight(context, params, wide, first, count, work));
  const ds_linear_params product = {.dtype = DS_FLOAT32,
                                    .rows = params->rows,
                                    .in_features = params->in_features,
                                    .out_features = count,
                                    .input = wide->input,
                                    .input_row_stride = params->in_features,
                                    .weight = wide->weight,
                                    .weight_row_stride = params->in_features,
                                    .output = wide->output,
                                    .output_row_stride = count};
  DS_CHECK(multiply(&product, &like));
  work.cols = count;
  work.wide = wide->output;
  work.bias = params->bias == NULL ? NULL : wide->bias + first;
  work.narrow_step = params->output_row_stride * bytes;
  work.output = (char *)params->output + first * bytes;
  return convert(context, params->rows, round_rows, &work);
}

static ds_status multiply_parts(const ds_context *context, const ds_linear_params *params,
                                const wide_operands *wide) {
  conversion work = {.dtype = params->dtype,
                     .cols = params->in_features,
                     .narrow = params->input,
                     .narrow_step = params->input_row_stride * (int64_t)ds_dtype_bytes(params->dtype),
                     .wide = wide->input};
  DS_CHECK(ds_cpu_kernels_chosen(&work.kernels));
  DS_CHECK(convert(context, params->rows, widen_rows, &work));
  if (params->bias != NULL) work.kernels->load(params->dtype, params->bias, params->out_features, wide->bias);
  for (int64_t first = 0; first < params->out_features; first += wide->features_at_once)
    DS_CHECK(multiply_part(context, params, wide, first, work));
  return DS_OK;
}

// A processor without products of 16 bits emulates them, at a third (bfloat16) to a tenth (float16) of
// float32's speed.
int ds_aten_linear_widens(ds_dtype dtype) {
  return dtype != DS_FLOAT32 && !ds_cpu_multiplies(dtype);
}

// With few rows, widening a weight takes longer than emulating the product.
static int is_better_widened(const ds_linear_params *params) {
  enum { FEWEST_ROWS = 16 };
  return params->rows >= FEWEST_ROWS && params->in_features > 0 && ds_aten_linear_widens(params->dtype);
}

ds_status ds_aten_linear_cpu(const ds_context *context, const ds_linear_params *params,
                             const ds_tensor *like) {
  if (params->scale == NULL && !is_better_widened(params)) return multiply(params, like);
  wide_operands wide = {0};
  ds_status status = allocate(params, like, &wide);
  if (status == DS_OK) status = multiply_parts(context, params, &wide);
  ds_torch_release(&wide.memory);
  return status;
}
