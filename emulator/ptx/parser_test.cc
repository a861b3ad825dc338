// Tests of the parser: what it makes of PTX as compilers and people write it.
#include <cstdio>
#include <iostream>
#include <string>

#include "emulator/ptx/testing.h"

namespace {

using namespace emulator::ptx;
using Kind = Operand::Kind;

// An operand in words.
std::string show(const Function& function, const Operand& operand) {
  const auto list = [&](const char* open, const char* between, const char* close) {
    std::string text = open;
    for (size_t i = 0; i < operand.elements.size(); i++)
      text += (i ? between : "") + show(function, operand.elements[i]);
    return text + close;
  };
  const auto named = [&](const std::string& base) {
    return base + (operand.offset ? (operand.offset > 0 ? "+" : "") + std::to_string(operand.offset) : "");
  };
  char number[40];
  switch (operand.kind) {
    case Kind::kRegister:
      return (operand.negated ? "!" : "") + function.registers.at(operand.reg).name;
    case Kind::kSink:
      return "_";
    case Kind::kInteger:
      return std::to_string(int64_t(operand.bits));
    case Kind::kFloat32:
      std::snprintf(number, sizeof(number), "f32:%08llx", (unsigned long long)operand.bits);
      return number;
    case Kind::kFloat64:
      std::snprintf(number, sizeof(number), "f64:%016llx", (unsigned long long)operand.bits);
      return number;
    case Kind::kSpecial:
      return "special " + operand.name;
    case Kind::kVariable:
      return operand.variable && operand.variable->name == operand.name ? named("variable " + operand.name) : "broken";
    case Kind::kFunction:
      return "function " + operand.name;
    case Kind::kLabel:
      return operand.name + "@" + std::to_string(operand.target);
    case Kind::kAddress: {
      std::string base = "0";
      if (operand.reg >= 0) base = function.registers.at(operand.reg).name;
      if (operand.variable) base = operand.variable->name == operand.name ? operand.name : "broken";
      return "[" + named(base) + (operand.elements.empty() ? "" : list("; ", "; ", "")) + "]";
    }
    case Kind::kVector:
      return list("{", ", ", "}");
    case Kind::kPair:
      return list("", "|", "");
    case Kind::kArguments:
      return list("(", ", ", ")");
    default:
      return "nothing";
  }
}

std::string show(const Function& function, const Instruction& instruction) {
  std::string text;
  if (instruction.guard >= 0) {
    text =
        std::string("@") + (instruction.guard_negated ? "!" : "") + function.registers.at(instruction.guard).name + " ";
  }
  text += instruction.opcode;
  for (const Operand& operand : instruction.operands) {
    text += (&operand == instruction.operands.data() ? " " : ", ") + show(function, operand);
  }
  return text;
}

std::string show(const Function& function) {
  std::string text;
  for (const Instruction& instruction : function.body) text += show(function, instruction) + "; ";
  return text;
}

// The body of the kernel, in words.
std::string body_of(const std::string& text) {
  const auto module = parse(text);
  return show(*module->find("k"));
}

// One instruction, with registers of each kind at hand.
std::string operands(const std::string& instruction) {
  return body_of(kHeader + R"(
.global .align 8 .b8 table[64];
.extern .shared .align 16 .b8 dynamic[];
.func helper(.param .b32 x);
.entry k(.param .u64 p) {
  .reg .pred %p<3>; .reg .b16 %rs<3>; .reg .b32 %r<10>; .reg .f32 %f<10>; .reg .b64 %rd<10>; .reg .b32 plain;
  )" + instruction +
                 "\n}");
}

// Modules -------------------------------------------------------------------------------------------------------------

void test_module_directives() {
  const auto module = parse(R"(// a comment
.version 8.7 /* over
two lines */ .target sm_100a, debug, texmode_independent
.address_size 64
.file 1 "/tmp/a b.cu"
	.file	2 "x//y.h", 1700000000, 1234
.pragma "nounroll";
.section	.debug_str
	{
$L__info_string0:
.b8 95,90,78
.b64 $L__func_begin0, .debug_abbrev+4 { .b8 1 }
	}
.section .debug_empty {}
.visible .entry k() { .loc 2 7 0
ret; })" + std::string(3, '\0'));
  CHECK_EQUAL(module->version_major, 8);
  CHECK_EQUAL(module->version_minor, 7);
  CHECK_EQUAL(module->target, "sm_100a");
  CHECK_EQUAL(module->files.size(), 2u);
  CHECK_EQUAL(module->files[1], "/tmp/a b.cu");
  CHECK_EQUAL(module->files[2], "x//y.h");
  CHECK_EQUAL(module->functions.size(), 1u);
  CHECK(module->find("k") != nullptr && module->find("k")->is_kernel && module->find("k")->is_defined);
  CHECK(module->find("l") == nullptr);
  CHECK_EQUAL(module->find("k")->body.at(0).line, 16);
  CHECK_EQUAL(parse("")->functions.size(), 0u);
}

std::string show(const Variable& v) {
  static const char* const kSpaces[] = {"register", "global", "const", "shared", "local", "param"};
  std::string text = (v.is_extern ? "extern " : "") + std::string(kSpaces[int(v.space)]) + " " + v.name + " " +
                     std::to_string(v.size) + "/" + std::to_string(v.alignment);
  for (size_t i = 0; i < v.initial.size(); i++) text += (i ? " " : " = ") + std::to_string(v.initial[i]);
  for (const auto& relocation : v.relocations) {
    text += " @" + std::to_string(relocation.offset) + (relocation.generic ? " generic " : " ") + relocation.symbol +
            " " + std::to_string(relocation.addend);
  }
  return text;
}

std::string variable(const std::string& declaration) { return show(*parse(declaration)->variables.at(0)); }

void test_variables() {
  CHECK_EQUAL(variable(".global .align 4 .b8 a[16];"), "global a 16/4");
  CHECK_EQUAL(variable(".visible .const .f64 a;"), "const a 8/8");
  CHECK_EQUAL(variable(".extern .shared .align 1024 .b8 dyn[];"), "extern shared dyn 0/1024");
  CHECK_EQUAL(variable(".shared .b128 a[2];"), "shared a 32/16");
  CHECK_EQUAL(variable(".weak .global .v4 .f32 a[3][2];"), "global a 96/16");
  CHECK_EQUAL(variable(".common .global .v2 .bf16x2 a;"), "global a 8/8");
  CHECK_EQUAL(variable(".global .attribute(.managed, .unified(1, 2)) .align 8 .u16 a[2][3][4];"), "global a 48/8");
  CHECK_EQUAL(variable(".global .u8 $str$1;"), "global $str$1 1/1");
  const auto two = parse(".global .s16 a, b[2*(1+2)];");
  CHECK_EQUAL(two->variables.size(), 2u);
  CHECK_EQUAL(show(*two->variables.at(1)), "global b 12/2");

  // A declaration and the definition are one variable, whichever comes first.
  const auto declared = parse(".extern .global .b32 a[]; .visible .global .b32 a[2] = {1}; .extern .global .b32 a[];");
  CHECK_EQUAL(declared->variables.size(), 1u);
  CHECK_EQUAL(show(*declared->variables.at(0)), "global a 8/4 = 1 0 0 0 0 0 0 0");
}

void test_initial_values() {
  CHECK_EQUAL(variable(".global .b8 a[4] = {1, -1, 0xFF};"), "global a 4/1 = 1 255 255 0");
  CHECK_EQUAL(variable(".global .u16 a = 258;"), "global a 2/2 = 2 1");
  CHECK_EQUAL(variable(".global .s64 a = -2;"), "global a 8/8 = 254 255 255 255 255 255 255 255");
  CHECK_EQUAL(variable(".global .u64 a = 0xFFFFFFFFFFFFFFFF;"), "global a 8/8 = 255 255 255 255 255 255 255 255");
  CHECK_EQUAL(variable(".const .f32 a[2] = {0f3F800000, 1.5};"), "const a 8/4 = 0 0 128 63 0 0 192 63");
  CHECK_EQUAL(variable(".const .f64 a = 0d400A000000000000;"), "const a 8/8 = 0 0 0 0 0 0 10 64");
  CHECK_EQUAL(variable(".const .f64 a = -1e0;"), "const a 8/8 = 0 0 0 0 0 0 240 191");
  CHECK_EQUAL(variable(".global .b32 a = 0f3F800000;"), "global a 4/4 = 0 0 128 63");
  CHECK_EQUAL(variable(".global .b8 a[3][2] = {{1, 2}, {3, 4}};"), "global a 6/1 = 1 2 3 4 0 0");
  CHECK_EQUAL(variable(".global .v2 .b8 a[2] = {{1, 2}, {3, 4}};"), "global a 4/2 = 1 2 3 4");
  CHECK_EQUAL(variable(".global .b8 a[][2] = {{1, 2}, {3, 4}, {5, 6}};"), "global a 6/1 = 1 2 3 4 5 6");
  CHECK_EQUAL(variable(".global .b16 a[] = {1, 2};"), "global a 4/2 = 1 0 2 0");

  const auto module = parse(R"(
.global .b8 text[4];
.func f();
.const .align 8 .u64 a[5] = {generic(text), generic(text)+8, text-4, 7, f};
.global .u64 self = generic(self);
.global .u64 generic = 1;
.global .u64 b = generic;
)");
  CHECK_EQUAL(show(*module->variables.at(1)).substr(0, 14), "const a 40/8 =");
  CHECK_EQUAL(module->variables.at(1)->initial.at(24), 7);
  const std::string relocations = show(*module->variables.at(1));
  CHECK_EQUAL(relocations.substr(relocations.find('@')), "@0 generic text 0 @8 generic text 8 @16 text -4 @32 f 0");
  CHECK_EQUAL(show(*module->variables.at(2)), "global self 8/8 = 0 0 0 0 0 0 0 0 @0 generic self 0");
  CHECK_EQUAL(show(*module->variables.at(4)), "global b 8/8 = 0 0 0 0 0 0 0 0 @0 generic 0");
}

void test_function_headers() {
  const auto module = parse(kHeader + R"(
.func  (.param .b32 func_retval0) add
(
	.param .b32 add_param_0,
	.param .align 8 .b8 add_param_1[48]
)
;
.extern .func gone() .noreturn ;
.weak .func (.reg .b32 r) in_registers (.reg .b64 %a, .reg .pred q) .noreturn { @q add.s32 r, r, 1; mov.b64 %a, 0; }
.visible .entry all(
	.param .u64 .ptr .global .align 16 pointer,
	.param .u64 .ptr .align 1 other,
	.param .f32 number,
	.param .v2 .u32 pair
)
.maxntid 128, 2
.reqntid 64
.minnctapersm 3
.maxnctapersm 4
.maxnreg 168
.explicitcluster
.reqnctapercluster 2, 1, 4
.maxclusterrank 8
.blocksareclusters
.pragma "a", "b";
{ ret; }
.entry bare { ret; }
.visible .func .attribute(.unified(0xAB, 0xCD)) (.param .b32 result) add (.param .b32 x, .param .b32 y) { ret; }
.func (.param .b32 result) add (.param .b32 x, .param .b32 y);
)");
  const Function& add = *module->find("add");
  CHECK_EQUAL(module->functions.size(), 5u);
  CHECK(add.is_defined && !add.is_kernel);
  CHECK_EQUAL(add.results.size(), 1u);
  CHECK_EQUAL(show(*add.results.at(0)), "param result 4/4");
  CHECK_EQUAL(add.parameters.size(), 2u);
  CHECK_EQUAL(show(*add.parameters.at(1)), "param y 4/4");
  CHECK_EQUAL(add.body.size(), 1u);

  const Function& gone = *module->find("gone");
  CHECK(!gone.is_defined && gone.parameters.empty() && gone.results.empty());

  const Function& in_registers = *module->find("in_registers");
  CHECK_EQUAL(in_registers.registers.size(), 3u);
  CHECK_EQUAL(in_registers.registers.at(0).name, "r");
  CHECK_EQUAL(in_registers.registers.at(1).name + std::to_string(in_registers.registers.at(1).bits), "%a64");
  CHECK_EQUAL(in_registers.registers.at(2).name + std::to_string(in_registers.registers.at(2).bits), "q1");
  CHECK_EQUAL(show(*in_registers.parameters.at(0)), "register %a 8/8");
  CHECK_EQUAL(show(in_registers), "@q add.s32 r, r, 1; mov.b64 %a, 0; ");

  const Function& all = *module->find("all");
  CHECK(all.is_kernel);
  CHECK_EQUAL(show(*all.parameters.at(0)), "param pointer 8/8");
  CHECK_EQUAL(show(*all.parameters.at(1)), "param other 8/8");
  CHECK_EQUAL(show(*all.parameters.at(2)), "param number 4/4");
  CHECK_EQUAL(show(*all.parameters.at(3)), "param pair 8/8");
  const auto dimensions = [](const int(&d)[3]) {
    return std::to_string(d[0]) + " " + std::to_string(d[1]) + " " + std::to_string(d[2]);
  };
  CHECK_EQUAL(dimensions(all.max_threads), "128 2 1");
  CHECK_EQUAL(dimensions(all.required_threads), "64 1 1");
  CHECK_EQUAL(dimensions(all.required_cluster), "2 1 4");
  CHECK_EQUAL(all.min_ctas, 3);
  CHECK_EQUAL(all.max_cluster_rank, 8);
  CHECK(all.explicit_cluster && all.blocks_are_clusters);

  const Function& bare = *module->find("bare");
  CHECK_EQUAL(dimensions(bare.max_threads), "0 0 0");
  CHECK_EQUAL(dimensions(bare.required_cluster), "0 0 0");
  CHECK_EQUAL(bare.min_ctas + bare.max_cluster_rank + bare.explicit_cluster + bare.blocks_are_clusters, 0);
}

void test_aliases() {
  const auto module = parse(kHeader + R"(
.func target(.param .b32 x) { ret; }
.func name(.param .b32 x);
.func name_of_name(.param .b32 x);
.global .u64 table[1] = {name};
.entry k() { .param .b32 a; call name_of_name, (a); }
.alias name_of_name, name;
.alias name, target;
)");
  CHECK_EQUAL(show(*module->find("k")), "call function target, (variable a); ");
  CHECK_EQUAL(module->variables.at(0)->relocations.at(0).symbol, "target");
}

// Bodies --------------------------------------------------------------------------------------------------------------

void test_registers() {
  const auto module = parse(in_kernel(R"(
  .reg .pred %p<2>, pred;
  .reg .f16x2 %r<3>;
  .reg .b8 byte; .reg .u16 short; .reg .b128 wide; .reg .f64 x1<12>; .reg .b32 temp;
  mov.b32 %r0, %r2; mov.b64 x10, x111; mov.b64 x11, x11;
  { .reg .b64 temp, %r<1>; mov.b64 temp, %r0; mov.b32 %r2, 0; }
  mov.b32 temp, %r0;)"));
  const Function& k = *module->find("k");
  CHECK_EQUAL(k.registers.size(), 24u);
  std::string bits;
  for (const Register& r : k.registers) bits += std::to_string(r.bits) + " ";
  CHECK_EQUAL(bits, "1 1 1 32 32 32 8 16 128 64 64 64 64 64 64 64 64 64 64 64 64 32 64 64 ");
}

void test_scopes() {
  // The names of registers do not tell which of several it is: their indices do.
  const auto module = parse(in_kernel(R"(
  .reg .b32 a, %r<2>;
  mov.b32 a, %r1;
  {
    .reg .b64 a;
    .shared .align 8 .b8 %r1[16];
    mov.b64 a, %r1;
    { .reg .b16 a; .local .b32 p; mov.b16 a, p; }
    mov.b64 a, p;
  }
  { .reg .b16 a; .shared .b16 %r1; mov.b16 a, %r1; }
  mov.b32 a, %r1;)"));
  const Function& k = *module->find("k");
  const auto target = [&](int i) { return k.registers.at(k.body.at(i).operands.at(0).reg).bits; };
  const auto source = [&](int i) { return k.body.at(i).operands.at(1); };
  CHECK_EQUAL(k.registers.size(), 6u);
  CHECK_EQUAL(target(0), 32);
  CHECK_EQUAL(target(1), 64);
  CHECK_EQUAL(target(2), 16);
  CHECK_EQUAL(target(3), 64);
  CHECK_EQUAL(target(4), 16);
  CHECK_EQUAL(target(5), 32);
  CHECK(k.body.at(2).operands.at(0).reg != k.body.at(4).operands.at(0).reg);
  CHECK_EQUAL(k.body.at(0).operands.at(0).reg, k.body.at(5).operands.at(0).reg);
  CHECK(source(0).kind == Kind::kRegister && source(5).kind == Kind::kRegister);
  CHECK_EQUAL(show(*source(1).variable), "shared %r1 16/8");
  CHECK_EQUAL(show(*source(2).variable), "local p 4/4");
  CHECK_EQUAL(show(*source(3).variable), "param p 8/8");
  CHECK_EQUAL(show(*source(4).variable), "shared %r1 2/2");
  CHECK(source(3).variable == k.parameters.at(0).get());
  CHECK_EQUAL(k.variables.size(), 3u);
}

void test_labels() {
  // The end of a function, two labels in one place, and labels in front of declarations.
  CHECK_EQUAL(body_of(in_kernel(R"(
start: .reg .pred p1; $L__a:
  bra end; again : @!p1 bra.uni start; @p1 bra $L__a; bra again; trap; end:)")),
              "bra end@5; @!p1 bra.uni start@0; @p1 bra $L__a@0; bra again@1; trap; ");
  // The same name in several scopes, before and after its use, and in none but the outer.
  CHECK_EQUAL(body_of(in_kernel(R"(
  .reg .pred p1;
  bra DONE;
  {
  WAIT: @p1 bra DONE; bra WAIT;
    { WAIT: bra WAIT; bra OUT; bra DONE; }
    { bra WAIT; WAIT: bra WAIT; bra DONE; DONE: }
  DONE:
  }
  {
  WAIT: @p1 bra DONE; bra WAIT; DONE: }
  OUT: ret;
  DONE:)")),
              "bra DONE@12; @p1 bra DONE@9; bra WAIT@1; "
              "bra WAIT@3; bra OUT@11; bra DONE@9; "
              "bra WAIT@7; bra WAIT@7; bra DONE@9; "
              "@p1 bra DONE@11; bra WAIT@9; ret; ");
  // A label may be called as a function or a register elsewhere is.
  CHECK_EQUAL(body_of(kHeader + ".func f(); .entry k() { .reg .b32 x; bra f; bra x; f: x: ret; }"),
              "bra f@2; bra x@2; ret; ");
}

void test_branch_tables() {
  CHECK_EQUAL(body_of(in_kernel(R"(
  .reg .b32 %r<2>;
  table: .branchtargets A, B,
    A;
  A: brx.idx.uni %r1, table;
  { A: brx.idx %r0, table; B: }
  B: ret;)")),
              "brx.idx.uni %r1, {A@0, B@2, A@0}; brx.idx %r0, {A@0, B@2, A@0}; ret; ");
}

void test_operands() {
  CHECK_EQUAL(operands("ret;"), "ret; ");
  CHECK_EQUAL(operands("bar.sync \t0 ;"), "bar.sync 0; ");
  CHECK_EQUAL(operands(";;mov.u32 plain, %tid.x; ;"), "mov.u32 plain, special %tid.x; ");
  CHECK_EQUAL(operands("mov.u64 %rd1, %clock64;"), "mov.u64 %rd1, special %clock64; ");
  CHECK_EQUAL(operands("mov.pred %p1, %is_explicit_cluster;"), "mov.pred %p1, special %is_explicit_cluster; ");
  CHECK_EQUAL(operands("mov.u32 %r1, %cluster_ctaid.x; mov.u32 %r1, %envreg3;"),
              "mov.u32 %r1, special %cluster_ctaid.x; mov.u32 %r1, special %envreg3; ");
  CHECK_EQUAL(operands("mov.u32 %r1, table; mov.u64 %rd1, table + 16; mov.u64 %rd1, table-(2*2)+-8;"),
              "mov.u32 %r1, variable table; mov.u64 %rd1, variable table+16; mov.u64 %rd1, variable table-12; ");
  CHECK_EQUAL(operands("mov.u64 %rd1, helper; mov.u64 %rd2, k;"),
              "mov.u64 %rd1, function helper; mov.u64 %rd2, function k; ");
  CHECK_EQUAL(operands("mov.b64 {%r1, _}, %rd1;"), "mov.b64 {%r1, _}, %rd1; ");
  CHECK_EQUAL(operands("a {{%r1, 2}, {_, -3}};"), "a {{%r1, 2}, {_, -3}}; ");
  CHECK_EQUAL(operands("setp.lt.and.s32 %p0|%p1, %r1, 3, !%p2;"), "setp.lt.and.s32 %p0|%p1, %r1, 3, !%p2; ");
  CHECK_EQUAL(operands("@%p1 elect.sync _ | %p2, 0xFFFFFFFF;"), "@%p1 elect.sync _|%p2, 4294967295; ");
  CHECK_EQUAL(operands("@!%p1 mbarrier.arrive.shared::cta.b64 _, [%r1];"),
              "@!%p1 mbarrier.arrive.shared::cta.b64 _, [%r1]; ");

  CHECK_EQUAL(operands("l [%rd1], [%rd1+8], [%rd1-8], [%rd1+-8], [ %rd1 + 4*4 ];"),
              "l [%rd1], [%rd1+8], [%rd1-8], [%rd1-8], [%rd1+16]; ");
  CHECK_EQUAL(operands("l [16], [-1], [WARP_SZ], [0xFFFFFFFFFFFFFFF0];"), "l [0+16], [0-1], [0+32], [0-16]; ");
  CHECK_EQUAL(operands("l [p], [p+0], [dynamic+64], [table-8];"), "l [p], [p], [dynamic+64], [table-8]; ");
  CHECK_EQUAL(operands("cp [%r1], [%rd1, {%r3, 0, %r4}], [%r2], {%rs1, %rs2}, %rd2;"),
              "cp [%r1], [%rd1; {%r3, 0, %r4}], [%r2], {%rs1, %rs2}, %rd2; ");
  CHECK_EQUAL(operands("tex.2d {%f1, _, _, _}, [table, %rd1, {%f1, %f2}];"),
              "tex.2d {%f1, _, _, _}, [table; %rd1; {%f1, %f2}]; ");
  CHECK_EQUAL(operands("wgmma {%f0, %f1}, %rd1, %rd2, %p1, 1, -1, 0, 0;"),
              "wgmma {%f0, %f1}, %rd1, %rd2, %p1, 1, -1, 0, 0; ");

  // Each operand points to what it names.
  const auto module = parse(kHeader + ".global .b32 g[4]; .entry k(.param .u64 p) { x [g+4], [p], g; }");
  const Instruction& x = module->find("k")->body.at(0);
  CHECK(x.operands.at(0).variable == module->variables.at(0).get());
  CHECK(x.operands.at(1).variable == module->find("k")->parameters.at(0).get());
  CHECK(x.operands.at(2).variable == module->variables.at(0).get());
  CHECK_EQUAL(x.operands.at(0).reg, -1);
}

void test_constants() {
  CHECK_EQUAL(operands("a 0, 12, 0x1f, 0X1F, 017, 0b101, 7U, 0xffU, -0x10, -9223372036854775808;"),
              "a 0, 12, 31, 31, 15, 5, 7, 255, -16, -9223372036854775808; ");
  CHECK_EQUAL(operands("a 18446744073709551615, 0xFFFFFFFFFFFFFFFF;"), "a -1, -1; ");
  CHECK_EQUAL(operands("a (1+2)*4-~0, 8/2*3, 7-2*3, 5-3-1, 1|2^3&6, 1<<2+1, 100 % 7 % 4, - -3, +5, WARP_SZ*2-1;"),
              "a 13, 12, 1, 1, 1, 8, 2, 3, 5, 63; ");
  // Division and shifts are those of the type: signed, until something is unsigned.
  CHECK_EQUAL(operands("a -7/2, -7 % 3, -7>>1, -1>>60U, 1<<63>>63, (1<<63)/-1, (1<<63)%-1;"),
              "a -3, -1, -4, -1, -1, -9223372036854775808, 0; ");
  CHECK_EQUAL(operands("a -7/2U, 1U<<63>>63, 0xFFFFFFFFFFFFFFFF>>4, 9223372036854775808/2;"),
              "a 9223372036854775804, 1, 1152921504606846975, 4611686018427387904; ");
  CHECK_EQUAL(operands("a 0f3F800000, 0FBF800000, -0f3F800000;"), "a f32:3f800000, f32:bf800000, f32:bf800000; ");
  CHECK_EQUAL(operands("a 0d3FF0000000000000, 0D7ff8000000000001;"), "a f64:3ff0000000000000, f64:7ff8000000000001; ");
  CHECK_EQUAL(operands("a 1.0, -0.5, 1e3, 1.5E-1, 2.;"),
              "a f64:3ff0000000000000, f64:bfe0000000000000, f64:408f400000000000, f64:3fc3333333333333, "
              "f64:4000000000000000; ");
}

void test_opcodes() {
  const auto parts = [](const std::string& text) {
    const auto module = parse(in_kernel(text));
    const Instruction& instruction = module->find("k")->body.at(0);
    std::string joined = instruction.opcode + " =";
    for (const std::string& part : instruction.parts) joined += " " + part;
    return joined;
  };
  CHECK_EQUAL(parts("ret;"), "ret = ret");
  CHECK_EQUAL(parts("fma.rn.f32 1;"), "fma.rn.f32 = fma rn f32");
  CHECK_EQUAL(
      parts("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [0];"),
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint = "
      "cp async bulk tensor 5d shared::cluster global tile mbarrier::complete_tx::bytes L2::cache_hint");
  CHECK_EQUAL(parts("ld .global\t.L2::128B .b32 1;"), "ld.global.L2::128B.b32 = ld global L2::128B b32");
}

void test_calls() {
  CHECK_EQUAL(body_of(kHeader + R"(
.func (.param .b32 r) f (.param .b32 a, .param .b32 b);
.func g;
.entry k() {
  .reg .b64 %rd<2>;
  { // callseq 6, 0
  .reg .b32 temp_param_reg;
  .param .b32 param0;
  .param .b32 param1;
  .param .b32 retval0;
  call.uni (retval0), 
  f, 
  (
  param0, 
  param1
  );
  proto_9 : .callprototype (.param .b32 _) _ (.param .b32 _, .param .b32 _) .noreturn;
  call (retval0), %rd1, (param0, 4), proto_9;
  }
  targets: .calltargets f, g;
  { .param .b32 param0; call %rd0, (param0, _), targets; }
  call g, ();
  call.uni g;
})"),
              "call.uni (variable retval0), function f, (variable param0, variable param1); "
              "call (variable retval0), %rd1, (variable param0, 4), proto_9@-1; "
              "call %rd0, (variable param0, _), targets@-1; call function g, (); call.uni function g; ");
}

void test_source_lines() {
  const auto module = parse(in_kernel(R"(.reg .pred guard; a;
.loc 3 10 5
b;
	.loc	1 0 3
c;
.loc 1 35 3
.loc 2 708 1, function_name $L__info_string0, inlined_at 1 35 3
{ d; .loc 4 5 6, function_name .debug_str+16, inlined_at 2 3 4
.pragma "nounroll";
@guard
  e
  .x 1, /* 17
18 */  2; }
f;)") + ".func g() { h; }");
  std::string lines;
  for (const char* name : {"k", "g"}) {
    for (const Instruction& i : module->find(name)->body) {
      lines += i.opcode + " " + std::to_string(i.line) + " " + std::to_string(i.source.file) + ":" +
               std::to_string(i.source.line) + "; ";
    }
  }
  CHECK_EQUAL(lines, "a 5 0:0; b 7 3:10; c 9 3:10; d 12 2:708; e.x 15 4:5; f 18 4:5; h 20 0:0; ");
}

void test_inlined_calls() {
  const auto module = parse(in_kernel(R"(
.loc 1 10 3
a;
.loc 1 20 4, function_name $L__info_string0, inlined_at 1 10 3
.loc 2 5 6, function_name $L__info_string1, inlined_at 1 20 4
b;
.loc 1 30 7, function_name $L__info_string0, inlined_at 1 11 3
.loc 2 5 6, function_name $L__info_string1, inlined_at 1 30 7
.loc 2 8 1, function_name $L__info_string2, inlined_at 2 5 6
c;
.loc 3 1 1, function_name $L__info_string3, inlined_at 3 1 1
d;)"));
  const Function& k = *module->find("k");
  std::string calls;
  for (const Instruction& instruction : k.body) {
    calls += instruction.opcode;
    for (int i = instruction.source.inlined_at; i >= 0; i = k.inlined_calls[i].inlined_at) {
      const InlinedCall& call = k.inlined_calls[i];
      calls += " " + std::to_string(call.file) + ":" + std::to_string(call.line) + (call.has_namesakes ? "?" : "");
    }
    calls += "; ";
  }
  // 2:5 is inlined twice, and the one that came last is meant. No compiler writes what d has.
  CHECK_EQUAL(calls, "a; b 1:20 1:10; c 2:5? 1:30 1:11; d 3:1?; ");
}

// As long as the kernels are.
void test_long_text() {
  constexpr int kLines = 50000;
  std::string statements = ".reg .b32 %r<" + std::to_string(kLines) + ">;\n";
  for (int i = 0; i < kLines; i++) {
    const std::string number = std::to_string(i);
    statements +=
        "L" + number + ": add.s32 %r" + number + ", %r" + std::to_string(kLines - 1 - i) + ", " + number + ";\n";
  }
  const auto module = parse(in_kernel(statements + "bra L49998;"));
  const Function& k = *module->find("k");
  CHECK_EQUAL(k.body.size(), kLines + 1);
  CHECK_EQUAL(show(k, k.body.at(49997)), "add.s32 %r49997, %r2, 49997");
  CHECK_EQUAL(k.body.at(49997).line, 50003);
  CHECK_EQUAL(show(k, k.body.at(kLines)), "bra L49998@49998");
}

}  // namespace

int main() {
  test_module_directives();
  test_variables();
  test_initial_values();
  test_function_headers();
  test_aliases();
  test_registers();
  test_scopes();
  test_labels();
  test_branch_tables();
  test_operands();
  test_constants();
  test_opcodes();
  test_calls();
  test_source_lines();
  test_inlined_calls();
  test_long_text();
  return verdict();
}
