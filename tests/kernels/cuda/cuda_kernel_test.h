// Base of the tests that run on a GPU: the module, a stream, and operands copied to the device and back.
#ifndef DS_TESTS_CUDA_KERNEL_TEST_H
#define DS_TESTS_CUDA_KERNEL_TEST_H

#include "ds_cuda_loader.h"
#include "matrix.h"
#include <cuda_runtime_api.h>
#include <stdexcept>
#include <string>
#include <vector>

namespace ds_tests {

// Exceptions end a test as failed; nothing here is tried again.
inline void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

// Device memory of exactly so many bytes, so that a memory checker sees an access past it. What was there
// before is overwritten: nothing may depend on it.
class device_buffer {
public:
  explicit device_buffer(size_t bytes) : bytes_(bytes) {
    check_cuda(cudaMalloc(&data_, bytes == 0 ? 1 : bytes));
    check_cuda(cudaMemset(data_, 0xa5, bytes));
  }
  ~device_buffer() { cudaFree(data_); }
  device_buffer(device_buffer &&other) noexcept : data_(other.data_), bytes_(other.bytes_) {
    other.data_ = nullptr;
  }
  device_buffer(const device_buffer &) = delete;
  device_buffer &operator=(const device_buffer &) = delete;

  char *data() const { return static_cast<char *>(data_); }
  size_t bytes() const { return bytes_; }

private:
  void *data_ = nullptr;
  size_t bytes_;
};

inline ds_status multiply(const ds_cuda_module *module, ds_linear_params params,
                          const device_buffer &workspace, cudaStream_t stream) {
  params.workspace = workspace.data();
  params.workspace_bytes = workspace.bytes();
  return module->linear(&params, stream);
}

// Copies of host matrices on the device, at addresses aligned alike.
class device_copies {
public:
  explicit device_copies(const std::vector<const matrix *> &hosts) : hosts_(hosts) {
    for (const matrix *host : hosts_) buffers_.emplace_back(host->memory_bytes());
    send();
  }

  void send() const {
    for (size_t i = 0; i < hosts_.size(); i++)
      check_cuda(cudaMemcpy(buffers_[i].data(), hosts_[i]->memory(), hosts_[i]->memory_bytes(),
                            cudaMemcpyHostToDevice));
    // A copy from pageable memory returns once that is read. The tests' stream does not wait for the rest.
    check_cuda(cudaDeviceSynchronize());
  }

  // Writes what is on the device to the host matrices.
  void fetch() const {
    for (size_t i = 0; i < hosts_.size(); i++)
      check_cuda(cudaMemcpy(hosts_[i]->memory(), buffers_[i].data(), hosts_[i]->memory_bytes(),
                            cudaMemcpyDeviceToHost));
  }

  // The device's address for a host address within one of the matrices.
  void *at(const void *host_address) const {
    const auto *address = static_cast<const unsigned char *>(host_address);
    for (size_t i = 0; i < hosts_.size() && address != nullptr; i++) {
      const unsigned char *const start = hosts_[i]->memory();
      if (address >= start && address <= start + hosts_[i]->memory_bytes())
        return buffers_[i].data() + (address - start);
    }
    return nullptr;
  }

  ds_rows at(ds_rows view) const {
    view.data = at(view.data);
    return view;
  }

private:
  std::vector<const matrix *> hosts_;
  std::vector<device_buffer> buffers_;
};

// The module of this build; null, and why in *reason, where it cannot be used on this machine.
inline const ds_cuda_module *usable_module(std::string *reason) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    *reason = std::string("no CUDA device: ") + cudaGetErrorString(error);
    return nullptr;
  }
  const ds_cuda_module *module = nullptr;
  if (ds_cuda_module_open(DS_TEST_LIBRARY_FOLDER, &module) != DS_OK)
    throw std::runtime_error(std::string("the module does not open: ") + ds_error_message());
  if (module->check_device() != DS_OK) {
    *reason = module->error_message();
    return nullptr;
  }
  return module;
}

class cuda_test : public testing::Test {
protected:
  void SetUp() override {
    std::string reason;
    module = usable_module(&reason);
    if (module == nullptr) GTEST_SKIP() << reason;
    // One that does not wait for the default stream: work that strays to that shows.
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  }

  void TearDown() override {
    if (stream != nullptr) check_cuda(cudaStreamDestroy(stream));
  }

  void wait() const { check_cuda(cudaStreamSynchronize(stream)); }

  const ds_cuda_module *module = nullptr;
  cudaStream_t stream = nullptr;
};

class cuda_dtype_test : public cuda_test, public testing::WithParamInterface<ds_dtype> {
protected:
  ds_dtype dtype = GetParam();
};

inline auto each_dtype() {
  return testing::Values(DS_FLOAT32, DS_FLOAT16, DS_BFLOAT16);
}

inline std::string name_of_dtype(const testing::TestParamInfo<ds_dtype> &info) {
  return ds_dtype_name(info.param);
}

// Elements on a GPU always lie at multiples of their size.
inline std::vector<layout> cuda_layouts(std::vector<layout> all) {
  std::erase(all, layout::odd_address);
  return all;
}

} // namespace ds_tests

#endif
