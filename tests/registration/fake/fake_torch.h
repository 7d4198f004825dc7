// A stand-in for libtorch's C shim: tensors with counted handles, a dispatcher of a few operators, and
// failures on demand. Registration linked to it runs without torch, and every handle, box and guard can be
// accounted for.
#ifndef DS_TESTS_FAKE_TORCH_H
#define DS_TESTS_FAKE_TORCH_H

#include "ds_dtype.h"
#include "ds_torch_shim.h"
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace fake_torch {

enum device : int32_t { cpu = 0, cuda = 1, meta = 14 };

// torch's code of a dtype, for those that tensors can have here.
int32_t code_of(ds_dtype dtype);
ds_dtype dtype_of(int32_t code);

struct tensor {
  std::shared_ptr<std::vector<char>> memory; // NULL: borrowed memory, or none
  char *data = nullptr;                      // the first element
  std::vector<int64_t> sizes, strides;
  int32_t dtype = 0;
  int32_t device_type = cpu;
  int32_t device_index = -1;
  bool defined = true;
};

int64_t numel(const tensor &of);
std::vector<int64_t> contiguous_strides(const std::vector<int64_t> &sizes);

// The element at these indices, counted from the first dimension; for the dtypes that kernels compute with.
double read(const tensor &from, const std::vector<int64_t> &index);
void write(const tensor &to, const std::vector<int64_t> &index, double value);

// Moves to the next index in row-major order; false after the last.
bool next(const std::vector<int64_t> &sizes, std::vector<int64_t> &index);

// A tensor with memory of its own unless it is on `meta`. The handle is owned by the caller.
AtenTensorHandle new_tensor(const std::vector<int64_t> &sizes, const std::vector<int64_t> &strides,
                            ds_dtype dtype, int32_t device_type);
AtenTensorHandle new_undefined_tensor();

// The tensor behind a handle that is alive, and its release.
tensor &at(AtenTensorHandle handle);
void release(AtenTensorHandle handle);

// What the plugin and the test hold: the same before a call and after its results were released.
struct holdings {
  int64_t handles;
  int64_t guards;
  int64_t allocations; // of operator new, which the cells of optional values come from

  bool operator==(const holdings &) const = default;
};
holdings held();

// A cell with an optional value, as the dispatcher makes one, and its release.
StableIValue new_cell(StableIValue content);
StableIValue take_cell(StableIValue cell);

// From now on the step-th call (counted from 0) of a function that can fail does; -1: none does.
void fail_at(int64_t step);
int64_t steps_taken();
// Counts a call of a function that can fail, and says whether it has to.
bool must_fail();

// The math mode of torch's cuBLAS handle: 3 is TF32, and flags of 16 and above may come with it.
void set_math_mode(int32_t mode);
// Products that the CUDA module was asked for, by whether they may round to TF32.
struct product_counts {
  int64_t full = 0;
  int64_t tf32 = 0;
};
product_counts take_products();

// What was done that torch would not bear: a handle used after its release, sizes read of a tensor on `meta`,
// …
std::vector<std::string> take_violations();
void violation(const std::string &text);

// What aoti_torch_check throws.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Registered by the plugin when it was loaded.
using boxed_kernel = void (*)(StableIValue *stack, uint64_t argument_count, uint64_t result_count);
boxed_kernel kernel(const std::string &dispatch_key, const std::string &name);
std::vector<std::string> schemas();

// The ATen operators of torch_call_dispatcher. Arguments are borrowed; throws std::runtime_error.
AtenTensorHandle empty_like(const tensor &input, bool contiguous);
AtenTensorHandle contiguous(const tensor &input);
AtenTensorHandle copy(const tensor &destination, const tensor &source);
AtenTensorHandle glu_shape(const tensor &input);
AtenTensorHandle linear_shape(const tensor &input, const tensor &weight);
AtenTensorHandle transpose(const tensor &input, int64_t first, int64_t second);
AtenTensorHandle scaled_dot_product_attention(const tensor &query, const tensor &key, const tensor &value,
                                              const tensor *mask);
// out = beta · self + alpha · mat1 · mat2; self may be NULL.
void addmm(const tensor &out, const tensor *self, const tensor &mat1, const tensor &mat2, double beta,
           double alpha);

} // namespace fake_torch

#endif
