// The registry of libraries, and calls through the dispatcher.
#include "fake_torch.h"
#include <cstdlib>
#include <map>

struct TorchLibraryOpaque {
  std::string dispatch_key; // empty: schemas alone
};

namespace fake_torch {

namespace {

// Function-local, so that it exists when the plugin registers itself, which is before main. A program of its
// own can make that registration fail, by the variable DS_FAKE_TORCH_FAIL_AT.
struct registry {
  std::vector<std::unique_ptr<TorchLibraryOpaque>> libraries;
  std::map<std::pair<std::string, std::string>, boxed_kernel> kernels;
  std::vector<std::string> schemas;

  registry() {
    if (const char *step = std::getenv("DS_FAKE_TORCH_FAIL_AT")) fail_at(std::atoll(step));
  }
};

registry &the() {
  static registry all;
  return all;
}

AOTITorchError new_library(const char *dispatch_key, TorchLibraryHandle *library) {
  registry &all = the();
  if (must_fail()) return 1;
  all.libraries.push_back(std::make_unique<TorchLibraryOpaque>(TorchLibraryOpaque{dispatch_key}));
  *library = all.libraries.back().get();
  return 0;
}

AOTITorchError add_kernel(TorchLibraryHandle library, const char *name, boxed_kernel function) {
  if (must_fail()) return 1;
  if (!the().kernels.emplace(std::pair(library->dispatch_key, name), function).second)
    violation(std::string(name) + " registered twice");
  return 0;
}

} // namespace

boxed_kernel kernel(const std::string &dispatch_key, const std::string &name) {
  const auto found = the().kernels.find({dispatch_key, name});
  return found == the().kernels.end() ? nullptr : found->second;
}

std::vector<std::string> schemas() {
  return the().schemas;
}

} // namespace fake_torch

using namespace fake_torch;

uint64_t aoti_torch_abi_version(void) {
  return static_cast<uint64_t>(DS_FAKE_TORCH_RELEASE / 100) << 56 |
         static_cast<uint64_t>(DS_FAKE_TORCH_RELEASE % 100) << 48;
}

AOTITorchError aoti_torch_library_init_fragment(const char *, const char *, uint32_t,
                                                TorchLibraryHandle *library) {
  return new_library("", library);
}

AOTITorchError aoti_torch_library_init_impl(const char *, const char *dispatch_key, const char *, uint32_t,
                                            TorchLibraryHandle *library) {
  return new_library(dispatch_key, library);
}

AOTITorchError aoti_torch_library_def(TorchLibraryHandle, const char *schema) {
  if (must_fail()) return 1;
  the().schemas.push_back(schema);
  return 0;
}

AOTITorchError aoti_torch_library_impl(TorchLibraryHandle library, const char *name,
                                       void (*function)(StableIValue *, uint64_t, uint64_t)) {
  return add_kernel(library, name, function);
}

#if DS_FAKE_TORCH_RELEASE >= 210

AOTITorchError torch_library_impl(TorchLibraryHandle library, const char *name,
                                  void (*function)(StableIValue *, uint64_t, uint64_t), uint64_t) {
  return add_kernel(library, name, function);
}

namespace {

AtenTensorHandle to_handle(StableIValue value) {
  return reinterpret_cast<AtenTensorHandle>(static_cast<uintptr_t>(value));
}

// An operator: what its slots hold ('t' tensor, '?' optional tensor, 'o' any other optional value, 'v' a
// plain value) and what it returns.
struct aten_operator {
  const char *name;
  const char *slots;
  AtenTensorHandle (*run)(const std::vector<AtenTensorHandle> &tensors,
                          const std::vector<StableIValue> &values);
};

const aten_operator operators[] = {
    {"aten::empty_like", "tooooo",
     [](const auto &tensors, const auto &values) {
       return empty_like(at(tensors[0]),
                         static_cast<int32_t>(values[5]) == aoti_torch_memory_format_contiguous_format());
     }},
    {"aten::contiguous", "tv", [](const auto &tensors, const auto &) { return contiguous(at(tensors[0])); }},
    {"aten::copy_", "ttv",
     [](const auto &tensors, const auto &) { return copy(at(tensors[0]), at(tensors[1])); }},
    {"aten::glu", "tv", [](const auto &tensors, const auto &) { return glu_shape(at(tensors[0])); }},
    {"aten::linear", "tt?",
     [](const auto &tensors, const auto &) { return linear_shape(at(tensors[0]), at(tensors[1])); }},
    {"aten::transpose.int", "tvv",
     [](const auto &tensors, const auto &values) {
       return transpose(at(tensors[0]), static_cast<int64_t>(values[1]), static_cast<int64_t>(values[2]));
     }},
    {"aten::scaled_dot_product_attention", "ttt?vvov",
     [](const auto &tensors, const auto &) {
       return scaled_dot_product_attention(at(tensors[0]), at(tensors[1]), at(tensors[2]),
                                           tensors[3] == nullptr ? nullptr : &at(tensors[3]));
     }},
};

} // namespace

// The arguments are taken off the stack whether the call fails or not, as torch does it.
AOTITorchError torch_call_dispatcher(const char *name, const char *overload, StableIValue *stack, uint64_t) {
  const std::string full = *overload == '\0' ? name : std::string(name) + "." + overload;
  const aten_operator *found = nullptr;
  for (const aten_operator &known : operators)
    if (known.name == full) found = &known;
  if (found == nullptr) {
    violation("no operator " + full);
    return 1;
  }
  const size_t count = std::char_traits<char>::length(found->slots);
  std::vector<AtenTensorHandle> tensors(count);
  std::vector<StableIValue> values(count);
  for (size_t i = 0; i < count; i++) {
    const char slot = found->slots[i];
    const bool optional = slot == '?' || slot == 'o';
    values[i] = optional && stack[i] != 0 ? take_cell(stack[i]) : stack[i];
    if (slot == 't' || slot == '?') tensors[i] = to_handle(values[i]);
    stack[i] = 0xdead; // not the caller's any more
  }
  AOTITorchError error = 1;
  if (!must_fail()) {
    try {
      stack[0] = reinterpret_cast<uintptr_t>(found->run(tensors, values));
      error = 0;
    } catch (const std::runtime_error &) {
    }
  }
  for (AtenTensorHandle handle : tensors)
    if (handle != nullptr) release(handle);
  return error;
}

#endif
