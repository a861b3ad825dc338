#include "emulator/machine/omission.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "emulator/machine/warp.h"

namespace emulator {
namespace {

Step leave_out(Warp&, const Instruction&, Mask) { return Step::kNext; }

// mbarrier.test_wait and try_wait: operand 0 is what they find.
Step find_complete(Warp& warp, const Instruction& instruction, Mask mask) {
  warp.set_predicate(instruction.operands[0], kAllLanes, mask);
  return Step::kNext;
}

bool is_test(const ptx::Instruction& text) {
  const auto has = [&](const char* part) {
    return std::find(text.parts.begin(), text.parts.end(), part) != text.parts.end();
  };
  return has("mbarrier") && (has("test_wait") || has("try_wait"));
}

}  // namespace

std::unique_ptr<Function> without_named_instruction(const Function& kernel) {
  const char* said = std::getenv("JAX_FLASH_MLA_EMULATOR_WITHOUT");
  if (!said) return nullptr;
  const std::string prefix = kernel.text->name + ":";
  if (std::string(said).rfind(prefix, 0) != 0) return nullptr;
  for (size_t i = 0; i < kernel.code.size(); ++i) {
    const ptx::Instruction* text = kernel.code[i].text;
    if (!text || prefix + std::to_string(text->line) != said) continue;
    auto without = std::make_unique<Function>(kernel);
    Instruction& omitted = without->code[i];
    omitted.run = is_test(*text) ? find_complete : leave_out;
    omitted.is_aligned = false;
    omitted.order = Instruction::kWeak;
    return without;
  }
  throw std::invalid_argument(std::string("JAX_FLASH_MLA_EMULATOR_WITHOUT=") + said +
                              " names a line where the kernel has no instruction.");
}

}  // namespace emulator
