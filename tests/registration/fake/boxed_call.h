// Calls of the plugin's boxed kernels on stacks that hold the fake torch's tensors.
#ifndef DS_TESTS_BOXED_CALL_H
#define DS_TESTS_BOXED_CALL_H

#include "fake_torch.h"
#include <map>
#include <optional>
#include <ostream>
#include <variant>

namespace boxed {

enum class layout {
  contiguous,
  transposed,  // the last two dimensions swapped in memory
  every_second // of the last dimension's elements
};

struct tensor_spec {
  std::vector<int64_t> sizes;
  layout where = layout::contiguous;
  ds_dtype dtype = DS_FLOAT32;
};

struct undefined_tensor {}; // how C++ callers may pass the absence of an optional one

using value = std::variant<tensor_spec, undefined_tensor, int64_t, double>;

// A call: arguments by name. Of those left out, optional tensors are None, scalars their default, and other
// tensors undefined, which is how torch passes None for them.
struct call_spec {
  std::string op;
  std::string name;
  std::map<std::string, value> arguments;
  std::string message;        // how the error that it must raise begins; empty: none
  bool right_on_meta = false; // Meta kernels, which know no sizes, let it pass
};
std::ostream &operator<<(std::ostream &to, const call_spec &call);

struct parameter {
  std::string name;
  std::string type; // "Tensor", "Tensor?", "int", "float"
  std::string default_text;
};

struct schema {
  std::string op;
  std::vector<parameter> parameters;
  size_t results;
};

// Reads "name(Tensor input, float epsilon=1e-05) -> (Tensor, Tensor)".
schema parse_schema(const std::string &text);

// As the plugin registered it.
schema schema_of(const std::string &op);

struct outcome {
  std::optional<std::string> error;      // what the kernel threw
  std::vector<AtenTensorHandle> results; // owned; to be released by release_results
  std::vector<std::string> faults;       // of the kernel's conduct: empty where it behaved
};

// Calls the kernel of `dispatch_key` on tensors of `device_type`.
outcome run(const call_spec &call, const std::string &dispatch_key, int32_t device_type);
void release_results(outcome &of);

// The call after what its errors on the CPU ask for was done, as often as it takes; `message` is the error
// that remains where that needs more than reading.
call_spec corrected(call_spec call);

// Calls of every registered operator that work, and a few of particular ones.
const std::vector<call_spec> &calls();

// Calls of every registered operator with one argument left out or wrong.
const std::vector<call_spec> &changed_calls();

} // namespace boxed

#endif
