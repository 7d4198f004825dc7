// A host's view of the plugin: it opens the library and calls operators by name.
#ifndef DS_TESTS_TORCH_PLUGIN_H
#define DS_TESTS_TORCH_PLUGIN_H

#include <ATen/core/ivalue.h>
#include <map>
#include <string>
#include <vector>

namespace torch_plugin {

using arguments = std::map<std::string, c10::IValue>;

// Opens libds_diffusers.so, as any host would; the second time does nothing new.
void load();

// Calls ds_diffusers::<op> through the dispatcher. Arguments left out take the schema's default.
std::vector<at::Tensor> call(const std::string &op, const arguments &given);

// The message of the c10::Error that the call must raise; empty where it raises none.
std::string error_of(const std::string &op, const arguments &given);

} // namespace torch_plugin

#endif
