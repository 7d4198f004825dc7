#include "torch_plugin.h"
#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

namespace torch_plugin {

void load() {
  if (dlopen(DS_LIBRARY, RTLD_NOW | RTLD_LOCAL) == nullptr) throw std::runtime_error(dlerror());
}

std::vector<at::Tensor> call(const std::string &op, const arguments &given) {
  const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(("ds_diffusers::" + op).c_str(), "");
  torch::jit::Stack stack;
  size_t used = 0;
  for (const c10::Argument &argument : handle.schema().arguments()) {
    const auto found = given.find(argument.name());
    if (found != given.end()) used++;
    stack.push_back(found != given.end() ? found->second : argument.default_value().value_or(c10::IValue()));
  }
  if (used != given.size()) throw std::logic_error(op + " lacks an argument of the test");
  handle.callBoxed(stack);
  std::vector<at::Tensor> results;
  for (const c10::IValue &value : stack) results.push_back(value.toTensor());
  return results;
}

std::string error_of(const std::string &op, const arguments &given) {
  try {
    call(op, given);
  } catch (const c10::Error &error) {
    return error.what_without_backtrace();
  }
  return "";
}

} // namespace torch_plugin

int main(int count, char **values) {
  testing::InitGoogleTest(&count, values);
  torch_plugin::load();
  return RUN_ALL_TESTS();
}
