// PTX as parsed: names resolved to declarations, instructions still as text.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace emulator::ptx {

// Where a line of PTX comes from: the innermost place that .loc names.
struct SourceLine {
  int file = 0;  // number of the .file directive; 0: unknown
  int line = 0;
  int inlined_at = -1;  // one of the function's inlined calls
};

// A call that was inlined, where it stands.
struct InlinedCall {
  int file, line;
  int inlined_at = -1;  // where its function is inlined in turn: a call before this one
  // Its function is inlined repeatedly, so that there are several calls at this place: which one is meant is told by
  // the order of the text alone.
  bool has_namesakes = false;
};

// What a name stands for within a module.
enum class Space { kRegister, kGlobal, kConst, kShared, kLocal, kParam };

// A variable: of a module, of a function's body, or a parameter.
struct Variable {
  std::string name;
  Space space = Space::kGlobal;
  uint64_t alignment = 1;
  uint64_t size = 0;  // bytes; 0 for an array of unknown length, as .extern .shared
  bool is_extern = false;

  // Initial bytes (empty: zeros), and addresses that are to be put into them.
  struct Relocation {
    uint64_t offset;
    std::string symbol;
    int64_t addend;
    bool generic;  // written generic(symbol)
    int line;      // of the PTX text
  };
  std::vector<uint8_t> initial;
  std::vector<Relocation> relocations;
};

struct Register {
  std::string name;  // with the percent sign, if it has one
  int bits = 0;      // 1 (a predicate), 8, 16, 32, 64 or 128
};

struct Operand {
  enum class Kind {
    kNone,
    kRegister,   // reg
    kSink,       // "_": a result nobody wants
    kInteger,    // bits: two's complement
    kFloat32,    // bits: 0f…, or a decimal constant as double in kFloat64
    kFloat64,    // bits: 0d…
    kSpecial,    // name: a special register such as %tid.x, with its component
    kVariable,   // variable, and name
    kFunction,   // name
    kLabel,      // target: index of an instruction of the function; -1: name is the prototype of an indirect call
    kAddress,    // [base + offset], base being a register, a variable or nothing; elements: coordinates after a comma
    kVector,     // {a, b, …}: elements; of brx.idx: the labels that .branchtargets lists
    kPair,       // a|b: two elements
    kArguments,  // (a, b, …) of a call: elements
  };
  Kind kind = Kind::kNone;
  bool negated = false;  // !%p
  int reg = -1;          // kRegister, and the base of kAddress: index in the function's registers
  uint64_t bits = 0;
  int64_t offset = 0;  // kAddress, kVariable
  int target = -1;
  std::string name;
  const Variable* variable = nullptr;  // kVariable, and the base of kAddress
  std::vector<Operand> elements;
};

struct Instruction {
  int guard = -1;  // register
  bool guard_negated = false;
  std::string opcode;              // all of it: "setp.lt.f32"
  std::vector<std::string> parts;  // split at dots, "::" kept together: {"setp", "lt", "f32"}
  std::vector<Operand> operands;
  SourceLine source;
  int line = 0;  // of the PTX text
};

struct Function {
  std::string name;
  bool is_kernel = false;
  bool is_defined = false;  // has a body
  std::vector<std::unique_ptr<Variable>> parameters;
  std::vector<std::unique_ptr<Variable>> results;
  std::vector<std::unique_ptr<Variable>> variables;  // of its body: shared, local, param of calls, in any scope
  std::vector<Register> registers;                   // of all scopes
  std::vector<Instruction> body;
  std::vector<InlinedCall> inlined_calls;
  // Directives of a kernel; 0 where absent.
  int max_threads[3] = {0, 0, 0};       // .maxntid
  int required_threads[3] = {0, 0, 0};  // .reqntid
  int min_ctas = 0;                     // .minnctapersm
  int required_cluster[3] = {0, 0, 0};  // .reqnctapercluster
  bool explicit_cluster = false;
  int max_cluster_rank = 0;
  bool blocks_are_clusters = false;  // .blocksareclusters: a launch counts clusters
};

// What "sm_90a" consists of.
struct Target {
  int architecture = 0;  // 90
  char variant = 0;      // 'a' or 'f': for that architecture or family alone; else 0

  // Whether a device of a compute capability (90, 100) runs what is compiled for it.
  bool runs_on(int capability) const {
    if (variant == 'a') return architecture == capability;
    if (variant == 'f') return architecture / 10 == capability / 10 && architecture <= capability;
    return architecture <= capability;
  }
};

// Of "sm_90a" or "compute_90a"; zeros where it is not like that.
Target read_target(std::string_view name);

struct Module {
  int version_major = 0, version_minor = 0;
  std::string target;  // "sm_90a"
  std::unordered_map<int, std::string> files;
  std::vector<std::unique_ptr<Variable>> variables;
  std::vector<std::unique_ptr<Function>> functions;  // also those only declared

  const Function* find(std::string_view name) const;
  Target target_parts() const { return read_target(target); }
};

// The text is not PTX that this parser knows; says what and in which line.
struct ParseError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::unique_ptr<Module> parse(std::string_view text);

}  // namespace emulator::ptx
