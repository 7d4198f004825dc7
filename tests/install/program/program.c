// A C program without torch: an operator and a kernel on plain arrays, and the CUDA module where it is
// installed.
#include <ds_diffusers/cpu/ds_kernels_cpu.h>
#include <ds_diffusers/ds_cuda_loader.h>
#include <ds_diffusers/ds_layer_norm.h>
#include <math.h>
#include <stdio.h>

#define ROWS 3
#define COLS 5

static void fill(float *values, int count) {
  for (int i = 0; i < count; i++) values[i] = sinf((float)i * 1.7f) + 0.25f * (float)(i % 4);
}

static double expected_value(const float *row, int column, const float *gamma, const float *beta,
                             double epsilon) {
  double mean = 0.0, variance = 0.0;
  for (int c = 0; c < COLS; c++) mean += row[c] / (double)COLS;
  for (int c = 0; c < COLS; c++) variance += (row[c] - mean) * (row[c] - mean) / COLS;
  return (row[column] - mean) / sqrt(variance + epsilon) * gamma[column] + beta[column];
}

static int differs(const char *name, const float *output, const float *input, const float *gamma,
                   const float *beta) {
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLS; c++) {
      const double expected = expected_value(input + r * COLS, c, gamma, beta, 1e-5);
      if (!(fabs(output[r * COLS + c] - expected) < 1e-5)) {
        printf("%s: row %d, column %d is %g, must be %g\n", name, r, c, output[r * COLS + c], expected);
        return 1;
      }
    }
  printf("%s: right\n", name);
  return 0;
}

static ds_tensor float_tensor(float *data, int32_t rank, const int64_t *sizes, const int64_t *strides) {
  const ds_tensor tensor = {data, DS_FLOAT32, DS_CPU, 0, rank, sizes, strides};
  return tensor;
}

static int run_operator(float *input, float *gamma, float *beta) {
  const int64_t sizes[2] = {ROWS, COLS}, strides[2] = {COLS, 1};
  float output[ROWS * COLS] = {0};
  const ds_tensor input_tensor = float_tensor(input, 2, sizes, strides);
  const ds_tensor gamma_tensor = float_tensor(gamma, 1, sizes + 1, strides + 1);
  const ds_tensor beta_tensor = float_tensor(beta, 1, sizes + 1, strides + 1);
  const ds_tensor output_tensor = float_tensor(output, 2, sizes, strides);
  const ds_context context = {0};
  if (ds_layer_norm(&context, &input_tensor, &gamma_tensor, &beta_tensor, 1e-5, &output_tensor) != DS_OK) {
    printf("ds_layer_norm: %s\n", ds_error_message());
    return 1;
  }
  return differs("ds_layer_norm", output, input, gamma, beta);
}

static int run_kernel(float *input, float *gamma, float *beta) {
  float output[ROWS * COLS] = {0};
  const ds_layer_norm_params params = {.dtype = DS_FLOAT32,
                                       .rows = ROWS,
                                       .cols = COLS,
                                       .epsilon = 1e-5f,
                                       .input = ds_rows_contiguous(input, ROWS, COLS),
                                       .gamma = gamma,
                                       .beta = beta,
                                       .output = output};
  if (ds_layer_norm_cpu(&params, NULL) != DS_OK) {
    printf("ds_layer_norm_cpu: %s\n", ds_error_message());
    return 1;
  }
  return differs("ds_layer_norm_cpu", output, input, gamma, beta);
}

static int run_refusal(float *input, float *gamma) {
  const int64_t sizes[2] = {ROWS, COLS}, strides[2] = {COLS, 1}, wrong[1] = {COLS - 1};
  float output[ROWS * COLS] = {0};
  const ds_tensor input_tensor = float_tensor(input, 2, sizes, strides);
  const ds_tensor gamma_tensor = float_tensor(gamma, 1, wrong, strides + 1);
  const ds_tensor output_tensor = float_tensor(output, 2, sizes, strides);
  const ds_context context = {0};
  const ds_status status = ds_layer_norm(&context, &input_tensor, &gamma_tensor, NULL, 1e-5, &output_tensor);
  printf("a gamma too short gives %s: %s\n", ds_status_name(status), ds_error_message());
  return status != DS_E_SHAPE;
}

static int open_cuda_module(void) {
#ifdef CUDA_MODULE_FOLDER
  const ds_cuda_module *module = NULL;
  if (ds_cuda_module_open(CUDA_MODULE_FOLDER, &module) != DS_OK) {
    printf("the installed CUDA module does not open: %s\n", ds_error_message());
    return 1;
  }
  if (module->check_device() == DS_OK)
    printf("the CUDA module (architectures %s) can run on this machine's GPU\n", module->architectures);
  else
    printf("the CUDA module (architectures %s) opened, but cannot run here: %s\n", module->architectures,
           module->error_message());
#else
  printf("no CUDA module is installed: the library was built without nvcc\n");
#endif
  return 0;
}

int main(void) {
  float input[ROWS * COLS], gamma[COLS], beta[COLS];
  fill(input, ROWS * COLS);
  fill(gamma, COLS);
  fill(beta, COLS);
  return run_operator(input, gamma, beta) | run_kernel(input, gamma, beta) | run_refusal(input, gamma) |
         open_cuda_module();
}
