#include "fake_torch.h"
#include "float_format.h"
#include <cstdlib>
#include <new>
#include <set>
#include <utility>

struct AtenTensorOpaque {
  std::shared_ptr<fake_torch::tensor> value;
};

namespace fake_torch {

namespace {

// Function-local, so that it exists when the plugin registers itself, which is before main.
struct state {
  std::set<AtenTensorHandle> handles;
  std::vector<std::string> violations;
  int64_t guards = 0;
  int32_t math_mode = 0;
  product_counts products;
  int64_t steps = 0;
  int64_t failing_step = -1;
};

state &the() {
  static state all;
  return all;
}

int64_t allocations;

constexpr struct {
  ds_dtype dtype;
  int32_t code;
} codes[] = {{DS_UINT8, 0},     {DS_INT8, 1},        {DS_INT16, 2},   {DS_INT32, 3},
             {DS_INT64, 4},     {DS_FLOAT16, 5},     {DS_FLOAT32, 6}, {DS_FLOAT64, 7},
             {DS_COMPLEX64, 9}, {DS_COMPLEX128, 10}, {DS_BOOL, 11},   {DS_BFLOAT16, 15}};

size_t element_bytes(int32_t code) {
  switch (dtype_of(code)) {
  case DS_UINT8:
  case DS_INT8:
  case DS_BOOL:
    return 1;
  case DS_INT16:
  case DS_FLOAT16:
  case DS_BFLOAT16:
    return 2;
  case DS_INT32:
  case DS_FLOAT32:
    return 4;
  case DS_COMPLEX128:
    return 16;
  default:
    return 8;
  }
}

AtenTensorHandle adopt(tensor value) {
  auto *handle = new AtenTensorOpaque{std::make_shared<tensor>(std::move(value))};
  the().handles.insert(handle);
  return handle;
}

char *element(const tensor &of, const std::vector<int64_t> &index) {
  int64_t offset = 0;
  for (size_t i = 0; i < index.size(); i++) offset += index[i] * of.strides[i];
  return of.data + offset * static_cast<int64_t>(element_bytes(of.dtype));
}

// The tensor behind a handle, NULL and a violation where it is not alive.
tensor *find(AtenTensorHandle handle, const char *function) {
  if (the().handles.count(handle) != 0) return handle->value.get();
  violation(std::string(function) + " of a handle that is not alive");
  return nullptr;
}

AOTITorchError fail() {
  return 1;
}

} // namespace

int32_t code_of(ds_dtype dtype) {
  for (const auto &known : codes)
    if (known.dtype == dtype) return known.code;
  return 99;
}

ds_dtype dtype_of(int32_t code) {
  for (const auto &known : codes)
    if (known.code == code) return known.dtype;
  return DS_DTYPE_OTHER;
}

int64_t numel(const tensor &of) {
  int64_t count = 1;
  for (const int64_t size : of.sizes) count *= size;
  return count;
}

std::vector<int64_t> contiguous_strides(const std::vector<int64_t> &sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= std::max<int64_t>(sizes[i], 1)) strides[i] = stride;
  return strides;
}

double read(const tensor &from, const std::vector<int64_t> &index) {
  return ds_tests::read_element(dtype_of(from.dtype), element(from, index));
}

void write(const tensor &to, const std::vector<int64_t> &index, double value) {
  ds_tests::write_element(dtype_of(to.dtype), element(to, index), value);
}

bool next(const std::vector<int64_t> &sizes, std::vector<int64_t> &index) {
  for (size_t i = sizes.size(); i-- > 0;) {
    if (++index[i] < sizes[i]) return true;
    index[i] = 0;
  }
  return false;
}

AtenTensorHandle new_tensor(const std::vector<int64_t> &sizes, const std::vector<int64_t> &strides,
                            ds_dtype dtype, int32_t device_type) {
  tensor made;
  made.sizes = sizes;
  made.strides = strides;
  made.dtype = code_of(dtype);
  made.device_type = device_type;
  made.device_index = device_type == cpu ? -1 : 0;
  if (device_type != meta && numel(made) != 0) {
    int64_t last = 0;
    for (size_t i = 0; i < sizes.size(); i++) last += (sizes[i] - 1) * strides[i];
    made.memory =
        std::make_shared<std::vector<char>>(static_cast<size_t>(last + 1) * element_bytes(made.dtype));
    made.data = made.memory->data();
  }
  return adopt(std::move(made));
}

AtenTensorHandle new_undefined_tensor() {
  tensor made;
  made.defined = false;
  made.sizes = {0};
  return adopt(std::move(made));
}

tensor &at(AtenTensorHandle handle) {
  tensor *found = find(handle, "a test");
  if (found == nullptr) throw std::logic_error("no such handle");
  return *found;
}

void release(AtenTensorHandle handle) {
  if (find(handle, "release") == nullptr) return;
  the().handles.erase(handle);
  delete handle;
}

holdings held() {
  return {static_cast<int64_t>(the().handles.size()), the().guards, allocations};
}

StableIValue new_cell(StableIValue content) {
  auto *cell = static_cast<StableIValue *>(::operator new(sizeof(StableIValue)));
  *cell = content;
  return reinterpret_cast<uintptr_t>(cell);
}

StableIValue take_cell(StableIValue cell) {
  auto *pointer = reinterpret_cast<StableIValue *>(static_cast<uintptr_t>(cell));
  const StableIValue content = *pointer;
  ::operator delete(pointer);
  return content;
}

void fail_at(int64_t step) {
  the().failing_step = step;
  the().steps = 0;
}

void set_math_mode(int32_t mode) {
  the().math_mode = mode;
}

product_counts take_products() {
  return std::exchange(the().products, {});
}

int64_t steps_taken() {
  return the().steps;
}

bool must_fail() {
  return the().steps++ == the().failing_step;
}

std::vector<std::string> take_violations() {
  return std::exchange(the().violations, {});
}

void violation(const std::string &text) {
  the().violations.push_back(text);
}

namespace {

// Sizes of a tensor on `meta` may be symbolic, which the shim cannot express.
tensor *find_sized(AtenTensorHandle handle, const char *function) {
  tensor *found = find(handle, function);
  if (found != nullptr && found->device_type == meta) violation(std::string(function) + " on meta");
  return found != nullptr && found->defined ? found : nullptr;
}

} // namespace

} // namespace fake_torch

// Counted, so that a cell of an optional value is missed whoever made it.
void *operator new(size_t bytes) {
  void *memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  fake_torch::allocations++;
  return memory;
}

void operator delete(void *memory) noexcept {
  if (memory != nullptr) fake_torch::allocations--;
  std::free(memory);
}

void operator delete(void *memory, size_t) noexcept {
  operator delete(memory);
}

using namespace fake_torch;

// Functions that ask for a constant.
#define DS_FAKE_CONSTANT(name, value)                                                                        \
  int32_t name(void) {                                                                                       \
    return value;                                                                                            \
  }
DS_FAKE_CONSTANT(aoti_torch_device_type_cpu, cpu)
DS_FAKE_CONSTANT(aoti_torch_device_type_cuda, cuda)
DS_FAKE_CONSTANT(aoti_torch_device_type_meta, meta)
DS_FAKE_CONSTANT(aoti_torch_dtype_float32, code_of(DS_FLOAT32))
DS_FAKE_CONSTANT(aoti_torch_dtype_float16, code_of(DS_FLOAT16))
DS_FAKE_CONSTANT(aoti_torch_dtype_bfloat16, code_of(DS_BFLOAT16))
DS_FAKE_CONSTANT(aoti_torch_dtype_float64, code_of(DS_FLOAT64))
DS_FAKE_CONSTANT(aoti_torch_dtype_uint8, code_of(DS_UINT8))
DS_FAKE_CONSTANT(aoti_torch_dtype_int8, code_of(DS_INT8))
DS_FAKE_CONSTANT(aoti_torch_dtype_int16, code_of(DS_INT16))
DS_FAKE_CONSTANT(aoti_torch_dtype_int32, code_of(DS_INT32))
DS_FAKE_CONSTANT(aoti_torch_dtype_int64, code_of(DS_INT64))
DS_FAKE_CONSTANT(aoti_torch_dtype_bool, code_of(DS_BOOL))
DS_FAKE_CONSTANT(aoti_torch_dtype_complex64, code_of(DS_COMPLEX64))
DS_FAKE_CONSTANT(aoti_torch_dtype_complex128, code_of(DS_COMPLEX128))
DS_FAKE_CONSTANT(aoti_torch_layout_strided, 0)
DS_FAKE_CONSTANT(aoti_torch_memory_format_contiguous_format, 0)
DS_FAKE_CONSTANT(aoti_torch_memory_format_preserve_format, 1)

void aoti_torch_check(bool condition, const char *, const char *, uint32_t, const char *message) {
  if (!condition) throw error(message);
}

AOTITorchError aoti_torch_is_defined(AtenTensorHandle handle, bool *defined) {
  const tensor *found = find(handle, __func__);
  if (found == nullptr || must_fail()) return fail();
  *defined = found->defined;
  return 0;
}

// The getters of one field, by which tensors have it: those on meta have what is never symbolic alone.
#define DS_FAKE_GETTER(find_tensor, name, type, expression)                                                  \
  AOTITorchError name(AtenTensorHandle handle, type *result) {                                               \
    tensor *found = find_tensor(handle, __func__);                                                           \
    if (found == nullptr || !found->defined || must_fail()) return fail();                                   \
    *result = expression;                                                                                    \
    return 0;                                                                                                \
  }
DS_FAKE_GETTER(find_sized, aoti_torch_get_data_ptr, void *, found->data)
DS_FAKE_GETTER(find_sized, aoti_torch_get_sizes, int64_t *, found->sizes.data())
DS_FAKE_GETTER(find_sized, aoti_torch_get_strides, int64_t *, found->strides.data())
DS_FAKE_GETTER(find_sized, aoti_torch_get_device_index, int32_t, found->device_index)
DS_FAKE_GETTER(find, aoti_torch_get_dim, int64_t, static_cast<int64_t>(found->sizes.size()))
DS_FAKE_GETTER(find, aoti_torch_get_dtype, int32_t, found->dtype)
DS_FAKE_GETTER(find, aoti_torch_get_device_type, int32_t, found->device_type)

AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle original, AtenTensorHandle *handle) {
  if (find(original, __func__) == nullptr || must_fail()) return fail();
  *handle = new AtenTensorOpaque{original->value};
  the().handles.insert(*handle);
  return 0;
}

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle handle) {
  release(handle);
  return 0;
}

AOTITorchError aoti_torch_empty_strided(int64_t rank, const int64_t *sizes, const int64_t *strides,
                                        int32_t dtype, int32_t device_type, int32_t device_index,
                                        AtenTensorHandle *handle) {
  if (must_fail()) return fail();
  *handle = new_tensor({sizes, sizes + rank}, {strides, strides + rank}, dtype_of(dtype), device_type);
  at(*handle).device_index = device_type == cpu ? -1 : device_index;
  return 0;
}

AOTITorchError aoti_torch_create_tensor_from_blob_v2(void *data, int64_t rank, const int64_t *sizes,
                                                     const int64_t *strides, int64_t storage_offset,
                                                     int32_t dtype, int32_t device_type, int32_t device_index,
                                                     AtenTensorHandle *handle, int32_t layout,
                                                     const uint8_t *, int64_t) {
  if (must_fail() || layout != aoti_torch_layout_strided()) return fail();
  tensor made;
  made.data = static_cast<char *>(data) + storage_offset * static_cast<int64_t>(element_bytes(dtype));
  made.sizes.assign(sizes, sizes + rank);
  made.strides.assign(strides, strides + rank);
  made.dtype = dtype;
  made.device_type = device_type;
  made.device_index = device_type == cpu ? -1 : device_index;
  *handle = adopt(std::move(made));
  return 0;
}

AOTITorchError aoti_torch_zero_(AtenTensorHandle handle) {
  tensor *found = find_sized(handle, __func__);
  if (found == nullptr || must_fail()) return fail();
  std::vector<int64_t> index(found->sizes.size());
  if (numel(*found) != 0) do
      write(*found, index, 0.0);
    while (next(found->sizes, index));
  return 0;
}

AOTITorchError aoti_torch_cpu_addmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat1,
                                        AtenTensorHandle mat2, double beta, double alpha) {
  if (must_fail()) return fail();
  addmm(at(out), &at(self), at(mat1), at(mat2), beta, alpha);
  return 0;
}

AOTITorchError aoti_torch_cpu_mm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat2) {
  if (must_fail()) return fail();
  addmm(at(out), nullptr, at(self), at(mat2), 0.0, 1.0);
  return 0;
}

#if DS_FAKE_TORCH_RELEASE >= 210

AOTITorchError torch_get_const_data_ptr(AtenTensorHandle handle, const void **pointer) {
  tensor *found = find_sized(handle, __func__);
  if (found == nullptr || must_fail()) return fail();
  *pointer = found->data;
  return 0;
}

AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t,
                                  void (*function)(int64_t, int64_t, void *), void *context) {
  if (must_fail()) return fail();
  const int64_t middle = begin + (end - begin) / 2;
  if (begin < middle) function(begin, middle, context);
  function(middle, end, context);
  return 0;
}

#endif
#if DS_FAKE_TORCH_RELEASE >= 213

// Declared by the plugin as pointers, which it looks up by name.
extern "C" {
const char *torch_exception_get_what_without_backtrace(void);
AOTITorchError torch_new_stable_ivalue(StableIValue **value);
AOTITorchError torch_delete_stable_ivalue(StableIValue *value);
}

const char *torch_exception_get_what_without_backtrace(void) {
  return "a failure on demand";
}

AOTITorchError torch_new_stable_ivalue(StableIValue **value) {
  if (must_fail()) return fail();
  *value = reinterpret_cast<StableIValue *>(static_cast<uintptr_t>(new_cell(0)));
  return 0;
}

AOTITorchError torch_delete_stable_ivalue(StableIValue *value) {
  ::operator delete(value);
  return 0;
}

#endif

// Called from the stand-ins for libtorch_cuda.so and the CUDA module.
extern "C" {
int32_t ds_fake_must_fail(void);
int32_t ds_fake_may_fail(void);
void ds_fake_count_guards(int32_t change);
int32_t ds_fake_math_mode(void);
void ds_fake_count_product(int32_t allow_tf32);
}

int32_t ds_fake_must_fail(void) {
  return must_fail() ? 1 : 0;
}

int32_t ds_fake_may_fail(void) {
  return the().failing_step >= 0 ? 1 : 0;
}

void ds_fake_count_guards(int32_t change) {
  the().guards += change;
}

int32_t ds_fake_math_mode(void) {
  return the().math_mode;
}

void ds_fake_count_product(int32_t allow_tf32) {
  (allow_tf32 != 0 ? the().products.tf32 : the().products.full)++;
}
