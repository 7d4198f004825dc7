// What an operator's errors ask for is enough to call it.
#include "boxed_call.h"
#include <sstream>

namespace boxed {

using namespace fake_torch;

namespace {

// Of a dimension that an error leaves open.
constexpr int64_t any_size = 8;

std::optional<int64_t> first_number(const std::string &text) {
  const size_t begin = text.find_first_of("0123456789");
  if (begin == std::string::npos) return std::nullopt;
  return std::stoll(text.substr(begin));
}

// "[2 or 1, N, 4], …" asks for [2, any, 4].
std::optional<std::vector<int64_t>> sizes_asked_for(const std::string &rule) {
  const size_t end = rule.find(']');
  if (!rule.starts_with("[") || end == std::string::npos) return std::nullopt;
  std::vector<int64_t> sizes;
  std::istringstream parts(rule.substr(1, end - 1));
  for (std::string part; std::getline(parts, part, ',');)
    sizes.push_back(first_number(part).value_or(any_size));
  return sizes;
}

std::optional<ds_dtype> dtype_asked_for(const std::string &rule) {
  for (const ds_dtype dtype : {DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16, DS_INT8})
    if (rule.starts_with(ds_dtype_name(dtype))) return dtype;
  return std::nullopt;
}

// Changes one argument as the rule says; false where that takes more than reading it.
bool obey(value &changed, const std::string &actual, const std::string &rule) {
  auto *tensor = std::get_if<tensor_spec>(&changed);
  if (tensor != nullptr && actual.starts_with("has shape")) {
    const auto sizes = sizes_asked_for(rule);
    if (sizes) *tensor = {*sizes, layout::contiguous, tensor->dtype};
    return sizes.has_value();
  }
  if (tensor != nullptr && actual.starts_with("has dtype")) {
    const auto dtype = dtype_asked_for(rule);
    if (dtype) tensor->dtype = *dtype;
    return dtype.has_value();
  }
  const auto number = first_number(rule);
  if (number && std::holds_alternative<int64_t>(changed)) {
    changed = *number;
    return true;
  }
  return false;
}

// "ds_diffusers::<op>: <name> <actual>, must be <rule>"
struct complaint {
  std::string name, actual, rule;
};

std::optional<complaint> parse(const std::string &op, const std::string &error) {
  const std::string start = "ds_diffusers::" + op + ": ", middle = ", must be ";
  const size_t space = error.find(' ', start.size()), must = error.find(middle);
  if (!error.starts_with(start) || must == std::string::npos || space > must) return std::nullopt;
  return complaint{error.substr(start.size(), space - start.size()),
                   error.substr(space + 1, must - space - 1), error.substr(must + middle.size())};
}

// Puts right what the error complains of.
bool correct(call_spec &call, const std::string &error) {
  const auto found = parse(call.op, error);
  if (!found) return false;
  if (found->rule.starts_with("None")) return call.arguments.erase(found->name) == 1;
  if (found->actual == "is None") {
    call.arguments[found->name] = tensor_spec{{any_size}, layout::contiguous, DS_FLOAT32};
    return true;
  }
  const auto given = call.arguments.find(found->name);
  return given != call.arguments.end() && obey(given->second, found->actual, found->rule);
}

std::optional<std::string> error_of(const call_spec &call) {
  outcome found = run(call, "CPU", cpu);
  release_results(found);
  return found.error;
}

} // namespace

call_spec corrected(call_spec call) {
  constexpr int most_corrections = 200; // rules that contradict each other would never end
  std::optional<std::string> error = error_of(call);
  for (int i = 0; i < most_corrections && error && correct(call, *error); i++) error = error_of(call);
  call.message = error.value_or("");
  call.right_on_meta = error.has_value();
  return call;
}

} // namespace boxed
