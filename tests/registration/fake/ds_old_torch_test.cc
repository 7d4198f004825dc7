// The plugin in a torch older than 2.10, whose shim lacks functions: loading is no crash, and a call says
// what to do.
#include "boxed_call.h"
#include <gtest/gtest.h>

using namespace boxed;
using namespace fake_torch;

namespace {

TEST(OldTorch, GetsAnErrorThatSaysWhatToDo) {
  ASSERT_FALSE(schemas().empty());
  for (const std::string &text : schemas()) {
    const schema of = parse_schema(text);
    EXPECT_EQ(kernel("CPU", of.op), nullptr);
    EXPECT_EQ(kernel("CUDA", of.op), nullptr);
    EXPECT_EQ(kernel("Meta", of.op), nullptr);
    std::vector<StableIValue> stack(of.parameters.size());
    std::string message;
    try {
      kernel("CompositeExplicitAutograd", of.op)(stack.data(), stack.size(), of.results);
    } catch (const error &thrown) {
      message = thrown.what();
    }
    EXPECT_NE(message.find("torch is too old, must be 2.10 or newer"), std::string::npos) << message;
  }
}

} // namespace
