// What goes wrong while a kernel runs, and where.
#pragma once

#include <stdexcept>
#include <string>

namespace emulator {

// What a GPU would say; the report says more.
enum class FaultCode {
  kIllegalAddress,
  kMisalignedAddress,
  kIllegalInstruction,
  kUninitialized,  // hardware would carry on with whatever was there
  kRace,           // likewise, and mostly rightly
  kDeadlock,       // hardware would hang
  kAssert,
  kTrap,
  kUnknownInstruction,  // the emulator's fault, not the kernel's
};

// Thrown by an instruction. `message` is one sentence without a place; the machine adds kernel, line, CTA and warp.
struct Fault : std::runtime_error {
  FaultCode code;
  std::string other;  // lines about another access that has to do with it, below the place
  Fault(FaultCode code, const std::string& message) : std::runtime_error(message), code(code) {}
};

}  // namespace emulator
