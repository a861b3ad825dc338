#include "emulator/machine/debugger.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace emulator {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// All of the text. Throws std::logic_error for what is no such number.
int number_in(const std::string& text, int low, int high) {
  size_t used = 0;
  const int number = std::stoi(text, &used);
  if (used != text.size() || number < low || number > high) throw std::invalid_argument(text);
  return number;
}

constexpr int kMost = std::numeric_limits<int>::max();

// One part; false where it means nothing. Throws std::logic_error for what is no number.
bool read_part(const std::string& name, const std::string& value, Watched& watched) {
  if (name == "cta") {
    const auto index = split(value, ',');
    if (index.size() != 3) return false;
    const auto along = [&](int axis) { return uint32_t(number_in(index[size_t(axis)], 0, kMost)); };
    watched.cta = {along(0), along(1), along(2)};
  } else if (name == "warp") {
    watched.warp = number_in(value, 0, kMost);
  } else if (name == "lane") {
    watched.lane = number_in(value, 0, kLanes - 1);
  } else if (name == "at") {
    const size_t colon = value.rfind(':');
    if (colon == std::string::npos) return false;
    watched.file = value.substr(0, colon);
    watched.line = number_in(value.substr(colon + 1), 1, kMost);
  } else if (name == "op") {
    watched.opcode = value;
  } else {
    return false;
  }
  return true;
}

// "cta=1,0,0 warp=3 lane=5 at=kernel.cuh:120 op=wgmma"; `more` takes the parts that only some variables have.
Watched read_watched(const std::string& variable, const std::string& text,
                     const std::function<bool(const std::string&, const std::string&)>& more) {
  Watched watched;
  for (const std::string& part : split(text, ' ')) {
    const size_t equals = part.find('=');
    bool understood = false;
    std::string why;
    try {
      if (equals != std::string::npos) {
        const std::string name = part.substr(0, equals), value = part.substr(equals + 1);
        understood = read_part(name, value, watched) || more(name, value);
      }
    } catch (const BadTile& error) {
      why = std::string(" (") + error.what() + ")";
    } catch (const std::logic_error&) {
    }
    if (!understood) throw std::invalid_argument(variable + " has a part that means nothing: " + part + why);
  }
  return watched;
}

std::string file_of(const Instruction& instruction, const Frame& frame) {
  const auto& files = frame.function->module->text->files;
  const auto file = files.find(instruction.text->source.file);
  return file == files.end() ? "" : file->second;
}

// What a register holds in a lane, as bits and as a float where it could be one.
std::string value_of(const Function& function, const Frame& frame, int reg, int lane) {
  const std::byte* place = frame.registers.get() + function.register_places[size_t(reg)];
  char text[64];
  switch (const int bits = function.text->registers[size_t(reg)].bits) {
    case 1: {
      Mask value;
      std::memcpy(&value, place, sizeof(value));
      return value >> lane & 1 ? "true" : "false";
    }
    case 64: {
      uint64_t value;
      std::memcpy(&value, place + lane * 8, sizeof(value));
      std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
      return text;
    }
    default: {
      if (bits > 64) return "?";
      uint32_t value;
      float real;
      std::memcpy(&value, place + lane * 4, sizeof(value));
      std::memcpy(&real, &value, sizeof(real));
      std::snprintf(text, sizeof(text), "0x%x=%d=%g", value, int(value), double(real));
      return text;
    }
  }
}

void add_registers(const ptx::Operand& operand, const Frame& frame, int lane, std::string& text) {
  using Kind = ptx::Operand::Kind;
  if (operand.reg >= 0 && (operand.kind == Kind::kRegister || operand.kind == Kind::kAddress)) {
    text += " " + frame.function->text->registers[size_t(operand.reg)].name + "=" +
            value_of(*frame.function, frame, operand.reg, lane);
  }
  for (const ptx::Operand& element : operand.elements) add_registers(element, frame, lane, text);
}

}  // namespace

std::unique_ptr<Debugger> Debugger::from_environment() {
  const auto said = [](const char* name) {
    const char* const text = std::getenv(name);
    return text && *text ? text : nullptr;
  };
  const char* trace = said("JAX_FLASH_MLA_EMULATOR_TRACE");
  const char* stop = said("JAX_FLASH_MLA_EMULATOR_STOP");
  if (!trace && !stop) return nullptr;
  auto debugger = std::make_unique<Debugger>();
  const auto nothing = [](const std::string&, const std::string&) { return false; };
  if (trace) debugger->trace_ = read_watched("JAX_FLASH_MLA_EMULATOR_TRACE", trace, nothing);
  if (!stop) return debugger;
  debugger->stop_ = read_watched("JAX_FLASH_MLA_EMULATOR_STOP", stop, [&](const auto& name, const auto& value) {
    if (name == "count") {
      debugger->stop_after_ = number_in(value, 1, kMost);
      return true;
    }
    if (name != "tile") return false;
    debugger->tile_ = SharedTile::read(split(value, ':'));
    return true;
  });
  if (debugger->stop_->line == 0 && debugger->stop_->opcode.empty()) {
    throw std::invalid_argument("JAX_FLASH_MLA_EMULATOR_STOP says neither at=file:line nor op=name.");
  }
  return debugger;
}

bool Debugger::matches(const Watched& watched, Warp& warp, const Instruction& instruction, const Frame& frame,
                       Mask mask) const {
  if (!instruction.text || !(mask >> watched.lane & 1)) return false;
  if (watched.warp && *watched.warp != warp.index()) return false;
  const Dim3 cta = warp.cta().index();
  if (watched.cta && (watched.cta->x != cta.x || watched.cta->y != cta.y || watched.cta->z != cta.z)) return false;
  if (instruction.text->opcode.compare(0, watched.opcode.size(), watched.opcode) != 0) return false;
  if (watched.line == 0) return true;
  if (instruction.text->source.line != watched.line) return false;
  const std::string file = file_of(instruction, frame);
  return file.size() >= watched.file.size() &&
         file.compare(file.size() - watched.file.size(), std::string::npos, watched.file) == 0;
}

void Debugger::executed(Warp& warp, const Instruction& instruction, const Frame& frame, Mask mask) {
  if (!trace_ || !matches(*trace_, warp, instruction, frame, mask)) return;
  std::string registers;
  for (const ptx::Operand& operand : instruction.text->operands) add_registers(operand, frame, trace_->lane, registers);
  const std::string file = file_of(instruction, frame);
  const Dim3 cta = warp.cta().index();
  std::fprintf(stderr, "[CTA %u,%u,%u warp %d lanes %08x] %s:%d %s%s\n", cta.x, cta.y, cta.z, warp.index(), mask,
               file.substr(file.rfind('/') + 1).c_str(), instruction.text->source.line,
               instruction.text->opcode.c_str(), registers.c_str());
}

void Debugger::about_to_execute(Warp& warp, const Instruction& instruction, const Frame& frame, Mask mask) {
  if (!stop_ || !matches(*stop_, warp, instruction, frame, mask) || ++stopped_at_ < stop_after_) return;
  std::string text =
      "Stopped as JAX_FLASH_MLA_EMULATOR_STOP asks. Registers of lane " + std::to_string(stop_->lane) + ":";
  for (const ptx::Operand& operand : instruction.text->operands) add_registers(operand, frame, stop_->lane, text);
  if (tile_) text += "\n" + tile_->dump(warp.cta());
  throw Fault(FaultCode::kTrap, text);
}

}  // namespace emulator
