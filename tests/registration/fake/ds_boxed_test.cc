// The boxed kernels on the fake torch: results as they should be, and, whichever call of torch fails, an
// error after which nothing is held, released twice or written behind the stack.
#include "boxed_call.h"
#include <algorithm>
#include <cmath>
#include <dlfcn.h>
#include <gtest/gtest.h>

using namespace boxed;
using namespace fake_torch;

namespace {

struct target {
  const char *dispatch_key;
  int32_t device_type;
};

std::ostream &operator<<(std::ostream &to, const target &where) {
  return to << where.dispatch_key;
}

const target targets[] = {{"CPU", cpu}, {"CUDA", cuda}, {"Meta", meta}};

// The CUDA side of the fake torch, as a CUDA build of torch would have loaded it.
void load_cuda() {
  static void *const library = dlopen(DS_FAKE_TORCH_CUDA, RTLD_NOW);
  ASSERT_NE(library, nullptr) << dlerror();
}

using parameters = std::tuple<target, call_spec>;

class BoxedKernel : public testing::TestWithParam<parameters> {
protected:
  void SetUp() override {
    if (where.device_type == cuda) load_cuda();
  }

  void TearDown() override { fail_at(-1); }

  // Runs the call while its step-th call of torch fails, hands the outcome to `check`, and expects everything
  // to be given back. Says whether that many calls were made.
  template <typename Check>
  bool run_failing_at(int64_t step, const Check &check) {
    const holdings before = held();
    bool happened = false;
    {
      fail_at(step);
      outcome found = run(call, where.dispatch_key, where.device_type);
      happened = step >= 0 && steps_taken() > step;
      check(found);
      release_results(found);
    }
    const holdings after = held();
    EXPECT_EQ(after.handles, before.handles);
    EXPECT_EQ(after.guards, before.guards);
    EXPECT_EQ(after.allocations, before.allocations);
    return happened;
  }

  const target where = std::get<0>(GetParam());
  const call_spec call = std::get<1>(GetParam());
};

class UndisturbedBoxedKernel : public BoxedKernel {};

TEST_P(UndisturbedBoxedKernel, ReturnsItsResultsOrSaysWhatIsWrong) {
  run_failing_at(-1, [this](const outcome &found) {
    EXPECT_EQ(found.error.has_value(), !call.message.empty()) << found.error.value_or("no error");
    EXPECT_EQ(found.error.value_or("").substr(0, call.message.size()), call.message);
    EXPECT_EQ(testing::PrintToString(found.faults), "{}");
    for (AtenTensorHandle result : found.results) {
      EXPECT_EQ(at(result).device_type, where.device_type);
      const value &first = call.arguments.at(schema_of(call.op).parameters[0].name);
      EXPECT_EQ(at(result).dtype, code_of(std::get<tensor_spec>(first).dtype));
    }
  });
}

TEST_P(BoxedKernel, CleansUpWhicheverCallFails) {
  bool happened = true;
  for (int64_t step = 0; happened && !HasFailure(); step++) {
    SCOPED_TRACE("call " + std::to_string(step) + " of torch fails");
    happened = run_failing_at(step, [step](const outcome &found) {
      EXPECT_EQ(testing::PrintToString(found.faults), "{}");
      if (steps_taken() <= step) return;
      EXPECT_NE(found.error.value_or("no error").find("ds_diffusers"), std::string::npos) << *found.error;
    });
  }
}

std::string name_of(const testing::TestParamInfo<parameters> &info) {
  const auto &[where, call] = info.param;
  return std::string(where.dispatch_key) + "_" + call.op + "_" + call.name;
}

std::vector<parameters> undisturbed_calls() {
  std::vector<parameters> found;
  for (const target &where : targets)
    for (const auto *some : {&calls(), &changed_calls()})
      for (const call_spec &call : *some)
        if (where.device_type != meta || !call.right_on_meta) found.emplace_back(where, call);
  return found;
}

INSTANTIATE_TEST_SUITE_P(All, UndisturbedBoxedKernel, testing::ValuesIn(undisturbed_calls()), name_of);
INSTANTIATE_TEST_SUITE_P(All, BoxedKernel,
                         testing::Combine(testing::ValuesIn(targets), testing::ValuesIn(calls())), name_of);

TEST(BoxedKernels, SayEnoughToCallThem) {
  for (const std::string &text : schemas()) {
    const std::string op = parse_schema(text).op;
    const bool works = std::any_of(calls().begin(), calls().end(), [&](const call_spec &call) {
      return call.op == op && call.name == "all" && call.message.empty();
    });
    EXPECT_TRUE(works) << op;
  }
}

// Of a result whose largest element is 1, after some roundings on the way.
double tolerance_of(ds_dtype dtype) {
  return dtype == DS_FLOAT32 ? 1e-6 : dtype == DS_FLOAT16 ? 4e-3 : 3e-2;
}

void expect_close(const tensor &one, const tensor &other) {
  ASSERT_EQ(one.sizes, other.sizes);
  if (numel(one) == 0) return;
  double largest = 0.0, difference = 0.0;
  std::vector<int64_t> index(one.sizes.size());
  do {
    largest = std::max(largest, std::abs(read(one, index)));
    difference = std::max(difference, std::abs(read(one, index) - read(other, index)));
  } while (next(one.sizes, index));
  EXPECT_LE(difference, tolerance_of(dtype_of(one.dtype)) * largest);
}

// The CUDA path adds residuals in the products and the CPU path in the norms: they must agree, and the Meta
// kernel must have said of what sizes their results are.
TEST(BoxedKernels, AgreeOnAllDevices) {
  load_cuda();
  for (const auto *some : {&calls(), &changed_calls()})
    for (const call_spec &call : *some) {
      SCOPED_TRACE(call.op + " " + call.name);
      if (!call.message.empty()) continue;
      outcome on_cpu = run(call, "CPU", cpu), on_cuda = run(call, "CUDA", cuda);
      outcome on_meta = run(call, "Meta", meta);
      ASSERT_EQ(on_cpu.results.size(), on_cuda.results.size());
      ASSERT_EQ(on_cpu.results.size(), on_meta.results.size());
      for (size_t i = 0; i < on_cpu.results.size(); i++) {
        expect_close(at(on_cpu.results[i]), at(on_cuda.results[i]));
        EXPECT_EQ(at(on_meta.results[i]).sizes, at(on_cpu.results[i]).sizes);
      }
      for (outcome *found : {&on_cpu, &on_cuda, &on_meta}) release_results(*found);
    }
}

// CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH, and both with the flag that torch sets around products of
// 16 bits.
TEST(BoxedKernels, ProductsFollowTorchsPrecision) {
  load_cuda();
  for (const int32_t mode : {0, 3, 16, 19}) {
    int64_t products = 0;
    for (const call_spec &call : calls()) {
      SCOPED_TRACE(call.op + " " + call.name + " in math mode " + std::to_string(mode));
      set_math_mode(mode);
      take_products();
      outcome found = run(call, "CUDA", cuda);
      release_results(found);
      const product_counts counts = take_products();
      EXPECT_EQ(mode % 16 == 3 ? counts.full : counts.tf32, 0);
      products += counts.full + counts.tf32;
    }
    EXPECT_GT(products, 0);
  }
  set_math_mode(0);
}

} // namespace
