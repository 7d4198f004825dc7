// What loading the plugin registers, and that a failure of any step of it is no crash.
#include "boxed_call.h"
#include <cstdlib>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace boxed;
using namespace fake_torch;

namespace {

TEST(Library, RegistersEveryOperatorForEveryKey) {
  ASSERT_FALSE(schemas().empty());
  for (const std::string &text : schemas()) {
    const schema found = parse_schema(text);
    for (const char *dispatch_key : {"CPU", "CUDA", "Meta"})
      EXPECT_NE(kernel(dispatch_key, found.op), nullptr) << found.op << " on " << dispatch_key;
    for (const parameter &each : found.parameters)
      EXPECT_TRUE(each.type == "Tensor" || each.type == "Tensor?" || each.type == "int" ||
                  each.type == "float")
          << found.op << "'s " << each.name << " is of type " << each.type;
  }
}

// Run by the next test in a program of its own, whose registration failed at some step: what was registered
// works.
TEST(LibraryChild, RunsWhatWasRegistered) {
  fail_at(-1);
  EXPECT_EQ(testing::PrintToString(take_violations()), "{}");
  for (const call_spec &call : calls()) {
    if (kernel("CPU", call.op) == nullptr) continue;
    outcome found = run(call, "CPU", cpu);
    EXPECT_EQ(found.error.value_or(""), call.message);
    release_results(found);
  }
}

TEST(Library, LoadsWhicheverStepFails) {
  const std::string self = "/proc/" + std::to_string(getpid()) + "/exe";
  // Three libraries of kernels and one of schemas, each with all operators.
  const int steps = 4 * (1 + static_cast<int>(schemas().size()));
  for (int step = 0; step < steps; step++) {
    const std::string command = "DS_FAKE_TORCH_FAIL_AT=" + std::to_string(step) + " " + self +
                                " --gtest_filter=LibraryChild.* > /dev/null 2>&1";
    const int status = std::system(command.c_str());
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "step " << step << ": status " << status;
  }
}

} // namespace
