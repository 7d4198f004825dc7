// Runs a UNet that is TorchScript (ds_diffusers.export.torchscript), with nothing but LibTorch and the
// plugin.
#include "host.h"
#include "host_error.h"
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <optional>
#include <string>
#include <torch/script.h>
#include <vector>

namespace {

struct torchscript_unet {
  host_setup setup;
  c10::Device device = c10::kCPU;
  at::ScalarType dtype = at::kFloat; // of its sample: that of its conditions
  torch::jit::Module module;
  std::vector<c10::IValue> inputs; // of forward, with gaps for sample and timestep
  std::optional<size_t> sample, timestep;
};

std::optional<torchscript_unet> opened;

// TorchScript's errors come with the source that failed; the last line says why.
std::string last_line(const std::string &text) {
  const size_t end = text.find_last_not_of(" \n");
  if (end == std::string::npos) return "unknown";
  const size_t line_break = text.rfind('\n', end);
  return text.substr(line_break == std::string::npos ? 0 : line_break + 1, end - line_break);
}

// Runs a function that may throw, and keeps its error.
template <typename Function>
bool guarded(const char *what, const Function &function) {
  try {
    return function();
  } catch (const c10::Error &error) {
    return host_fail("%s: %s", what, last_line(error.what_without_backtrace()).c_str());
  } catch (const std::exception &error) {
    return host_fail("%s: %s", what, last_line(error.what()).c_str());
  }
}

bool read_condition(torchscript_unet &unet, const std::string &name, at::Tensor &tensor) {
  static const std::map<std::string, at::ScalarType> dtypes = {
      {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}, {"I64", at::kLong}};
  const safetensors_tensor *found = host_condition(&unet.setup, name.c_str());
  if (found == nullptr) return false;
  const auto dtype = dtypes.find(found->dtype);
  if (dtype == dtypes.end())
    return host_fail("%s has dtype %s, must have F32, F16, BF16 or I64", found->name, found->dtype);
  const at::Tensor mapped = at::from_blob(
      const_cast<void *>(found->data), {found->shape, size_t(found->rank)}, at::TensorOptions(dtype->second));
  // A copy, as the file may lie at an odd address.
  tensor = mapped.clone().to(unet.device);
  return true;
}

bool prepare_inputs(torchscript_unet &unet) {
  const std::vector<c10::Argument> &arguments =
      unet.module.get_method("forward").function().getSchema().arguments();
  for (size_t i = 1; i < arguments.size(); i++) { // the first is the module itself
    const std::string &name = arguments[i].name();
    at::Tensor tensor;
    if (name == "sample")
      unet.sample = i - 1;
    else if (name == "timestep")
      unet.timestep = i - 1;
    else if (!read_condition(unet, name, tensor))
      return false;
    if (tensor.defined() && tensor.is_floating_point()) unet.dtype = tensor.scalar_type();
    unet.inputs.emplace_back(tensor);
  }
  if (!unet.sample || !unet.timestep)
    return host_fail("%s takes no sample or no timestep: it is no UNet that ds_diffusers.export wrote",
                     unet.setup.model);
  return true;
}

bool open_unet(const host_setup *setup) {
  return guarded(setup->model, [&] {
    if (dlopen(setup->plugin, RTLD_NOW) == nullptr)
      return host_fail("the plugin %s cannot be loaded: %s", setup->plugin, dlerror());
    torchscript_unet &unet = opened.emplace();
    unet.setup = *setup;
    if (setup->cuda && !at::hasCUDA()) return host_fail("--device is cuda, but LibTorch finds no GPU");
    if (setup->cuda) unet.device = c10::Device(c10::kCUDA, 0);
    unet.module = torch::jit::load(setup->model, unet.device);
    return prepare_inputs(unet);
  });
}

bool predict(void *, const float *sample, int64_t timestep, float *prediction) {
  return guarded("the UNet failed", [&] {
    torchscript_unet &unet = *opened;
    const torch::NoGradGuard no_grad;
    const at::IntArrayRef shape(unet.setup.sample_shape, 4);
    const at::Tensor mapped =
        at::from_blob(const_cast<float *>(sample), shape, at::TensorOptions(at::kFloat));
    unet.inputs[*unet.sample] = mapped.to(unet.device, unet.dtype);
    unet.inputs[*unet.timestep] =
        at::scalar_tensor(timestep, at::TensorOptions(at::kLong).device(unet.device));
    const at::Tensor result = unet.module.forward(unet.inputs).toTensor();
    if (!host_check_prediction(&unet.setup, result.dim(), result.sizes().data())) return false;
    const at::Tensor read = result.to(at::kCPU, at::kFloat).contiguous();
    std::memcpy(prediction, read.const_data_ptr<float>(), read.nbytes());
    return true;
  });
}

void close_unet() {
  opened.reset();
}

} // namespace

int main(int count, char **arguments) {
  const host_unet unet = {"ds_torchscript_host", "TorchScript, as ds_diffusers.export.torchscript writes it",
                          open_unet, predict, close_unet};
  return host_main(count, arguments, &unet);
}
