#include "boxed_call.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace boxed {

using namespace fake_torch;

namespace {

constexpr StableIValue poison = 0xfeedfacecafebeef;

StableIValue to_slot(AtenTensorHandle handle) {
  return reinterpret_cast<uintptr_t>(handle);
}

AtenTensorHandle to_handle(StableIValue slot) {
  return reinterpret_cast<AtenTensorHandle>(static_cast<uintptr_t>(slot));
}

std::vector<int64_t> strides_of(const tensor_spec &spec) {
  const size_t rank = spec.sizes.size();
  std::vector<int64_t> strides = contiguous_strides(spec.sizes);
  if (spec.where == layout::every_second)
    for (int64_t &stride : strides) stride *= 2;
  if (spec.where == layout::transposed) {
    std::vector<int64_t> sizes = spec.sizes;
    std::swap(sizes[rank - 1], sizes[rank - 2]);
    strides = contiguous_strides(sizes);
    std::swap(strides[rank - 1], strides[rank - 2]);
  }
  return strides;
}

// Values that differ from element to element and from argument to argument, the same in every run.
void fill(const tensor &of, double seed) {
  std::vector<int64_t> index(of.sizes.size());
  double count = seed;
  if (numel(of) == 0) return;
  do write(of, index, std::sin(count += 0.37));
  while (next(of.sizes, index));
}

AtenTensorHandle make(const tensor_spec &spec, int32_t device_type, double seed) {
  AtenTensorHandle made = new_tensor(spec.sizes, strides_of(spec), spec.dtype, device_type);
  const bool computes = spec.dtype == DS_FLOAT32 || spec.dtype == DS_FLOAT16 || spec.dtype == DS_BFLOAT16;
  if (device_type != meta && computes) fill(at(made), seed);
  return made;
}

// 0 where neither the call nor the schema says anything.
StableIValue scalar(const parameter &of, const value *given) {
  const std::string text = of.default_text.empty() ? "0" : of.default_text;
  if (of.type == "int")
    return static_cast<StableIValue>(given != nullptr ? std::get<int64_t>(*given) : std::stoll(text));
  const double number = given != nullptr ? std::get<double>(*given) : std::stod(text);
  StableIValue slot = 0;
  std::memcpy(&slot, &number, sizeof slot);
  return slot;
}

StableIValue argument(const parameter &of, const value *given, int32_t device_type, double seed) {
  if (of.type != "Tensor" && of.type != "Tensor?") return scalar(of, given);
  if (given == nullptr) return of.type == "Tensor?" ? 0 : to_slot(new_undefined_tensor());
  const auto *spec = std::get_if<tensor_spec>(given);
  const StableIValue slot =
      to_slot(spec == nullptr ? new_undefined_tensor() : make(*spec, device_type, seed));
  return of.type == "Tensor?" ? new_cell(slot) : slot;
}

void check_results(const schema &of, const std::vector<StableIValue> &stack, outcome &found) {
  for (size_t i = 0; i < of.results; i++) {
    AtenTensorHandle handle = to_handle(stack[i]);
    if (std::count(found.results.begin(), found.results.end(), handle) != 0)
      found.faults.push_back("one handle in two results");
    else if (handle == nullptr || !at(handle).defined)
      found.faults.push_back("a result that is no tensor");
    else
      found.results.push_back(handle);
  }
}

} // namespace

std::ostream &operator<<(std::ostream &to, const call_spec &call) {
  return to << call.op << ", " << call.name;
}

schema parse_schema(const std::string &text) {
  schema found;
  const size_t open = text.find('('), arrow = text.find(") -> ");
  found.op = text.substr(0, open);
  const std::string returned = text.substr(arrow + 5);
  found.results = static_cast<size_t>(1 + std::count(returned.begin(), returned.end(), ','));
  size_t begin = open + 1;
  while (begin < arrow) {
    const size_t end = std::min(text.find(", ", begin), arrow);
    const std::string part = text.substr(begin, end - begin);
    begin = end + 2;
    if (part == "*") continue;
    const size_t space = part.find(' '), equals = std::min(part.find('='), part.size());
    found.parameters.push_back({part.substr(space + 1, equals - space - 1), part.substr(0, space),
                                equals == part.size() ? "" : part.substr(equals + 1)});
  }
  return found;
}

schema schema_of(const std::string &op) {
  for (const std::string &text : schemas())
    if (text.starts_with(op + "(")) return parse_schema(text);
  throw std::logic_error("no operator " + op);
}

outcome run(const call_spec &call, const std::string &dispatch_key, int32_t device_type) {
  const schema of = schema_of(call.op);
  const size_t used = std::max(of.parameters.size(), of.results);
  std::vector<StableIValue> stack(used + 2, poison);
  for (size_t i = 0; i < of.parameters.size(); i++) {
    const auto given = call.arguments.find(of.parameters[i].name);
    stack[i] = argument(of.parameters[i], given == call.arguments.end() ? nullptr : &given->second,
                        device_type, static_cast<double>(i));
  }
  outcome found;
  try {
    kernel(dispatch_key, call.op)(stack.data(), of.parameters.size(), of.results);
    check_results(of, stack, found);
  } catch (const error &thrown) {
    found.error = thrown.what();
  }
  if (stack[used] != poison || stack[used + 1] != poison) found.faults.push_back("a write behind the stack");
  for (std::string &text : take_violations()) found.faults.push_back(std::move(text));
  return found;
}

void release_results(outcome &of) {
  for (AtenTensorHandle handle : of.results) release(handle);
  of.results.clear();
}

} // namespace boxed
