// Tests of what the parser says about what it refuses.
#include <string>

#include "emulator/ptx/testing.h"

namespace {

using namespace emulator::ptx;

// Refusals ------------------------------------------------------------------------------------------------------------

void test_errors_of_tokens() {
  CHECK_EQUAL(error_of("\n\n#"), "PTX line 3: unknown character '#'");
  CHECK_EQUAL(error_of("\n\xc3\xa4"), "PTX line 2: unknown character 0xc3");
  CHECK_EQUAL(error_of("/* \n"), "PTX line 1: comment without an end");
  CHECK_EQUAL(error_of(".pragma \"abc\n\";"), "PTX line 1: string without an end");
  CHECK_EQUAL(error_of(".section .debug_x\n{ {}"), "PTX line 2: '{' without }");
  CHECK_EQUAL(error_of(".pragma \"abc\""), "PTX line 1: statement without ';'");
  CHECK_EQUAL(error_in_kernel("a 0f3F80000;"), "PTX line 5: malformed number '0f3F80000'");
  CHECK_EQUAL(error_in_kernel("a 0f3F80000G;"), "PTX line 5: malformed number '0f3F80000G'");
  CHECK_EQUAL(error_in_kernel("a 0d3F800000;"), "PTX line 5: malformed number '0d3F800000'");
  CHECK_EQUAL(error_in_kernel("a 018;"), "PTX line 5: malformed number '018'");
  CHECK_EQUAL(error_in_kernel("a 0x;"), "PTX line 5: malformed number '0x'");
  CHECK_EQUAL(error_in_kernel("a 1.2.3;"), "PTX line 5: malformed number '1.2.3'");
  CHECK_EQUAL(error_in_kernel("a 12abc;"), "PTX line 5: malformed number '12abc'");
  CHECK_EQUAL(error_in_kernel("a 18446744073709551616;"),
              "PTX line 5: out of the range of 64 bits: '18446744073709551616'");
  CHECK_EQUAL(error_in_kernel("a 1/(2-2);"), "PTX line 5: division by zero in a constant expression");
  CHECK_EQUAL(error_in_kernel("a 1<<64;"), "PTX line 5: shift by more than 63 bits in a constant expression");
  CHECK_EQUAL(error_in_kernel("a 1.5+1;"), "PTX line 5: '+' between floating-point constants is not supported");
  CHECK_EQUAL(error_in_kernel("a ~1.5;"), "PTX line 5: '~' of a floating-point constant");
  CHECK_EQUAL(error_in_kernel("a [1.5];"), "PTX line 5: expected an integer, found '1.5'");
  CHECK_EQUAL(error_in_kernel("a 3>2;"), "PTX line 5: expected ';', found '>'");
}

void test_errors_of_modules() {
  CHECK_EQUAL(error_of("\n.frobnicate 3;"), "PTX line 2: unknown directive '.frobnicate'");
  CHECK_EQUAL(error_of("add.s32 a;"), "PTX line 1: expected a directive, found 'add.s32'");
  CHECK_EQUAL(error_of(".extern"), "PTX line 1: expected a directive, found the end of the text");
  CHECK_EQUAL(error_of(".version x"), "PTX line 1: expected a version, found 'x'");
  CHECK_EQUAL(error_of(".version 8.x"), "PTX line 1: malformed version '8.x'");
  CHECK_EQUAL(error_of(".address_size 32"), "PTX line 1: no other .address_size than 64 is supported");
  CHECK_EQUAL(error_of(".file -1 \"a\""), "PTX line 1: expected an integer up to 2147483647");
  CHECK_EQUAL(error_of(".file 1 a"), "PTX line 1: expected a path, found 'a'");
  CHECK_EQUAL(error_of(".alias a, b;"), "PTX line 1: unknown function 'a'");

  CHECK_EQUAL(error_of(".global .texref t;"), "PTX line 1: unknown directive '.texref' in a declaration");
  CHECK_EQUAL(error_of(".global .b8 .b8 t;"), "PTX line 1: more than one type in a declaration");
  CHECK_EQUAL(error_of(".global t;"), "PTX line 1: expected a type, found 't'");
  CHECK_EQUAL(error_of(".global .pred t;"), "PTX line 1: predicates are registers only");
  CHECK_EQUAL(error_of(".global .align 3 .b8 t;"), "PTX line 1: the alignment is not a power of two");
  CHECK_EQUAL(error_of(".global .b8 t[3][];"), "PTX line 1: expected a constant, found ']'");
  CHECK_EQUAL(error_of(".global .b64 t[1000000][1000000];"), "PTX line 1: 't' is too large");
  CHECK_EQUAL(error_of(".global .b8 t\n.b8 u;"), "PTX line 2: expected ';', found '.b8'");
  CHECK_EQUAL(error_of(".global .b8 t; \n.global .b8 t;"), "PTX line 2: 't' is declared twice");
  CHECK_EQUAL(error_of(".extern .global .b8 t; .const .b8 t;"), "PTX line 1: 't' is declared twice");
  CHECK_EQUAL(error_of(".func t(); .global .b8 t;"), "PTX line 1: 't' is declared twice");

  CHECK_EQUAL(error_of(".global .b8 t = 256;"), "PTX line 1: initial value beginning with '256' does not fit type .b8");
  CHECK_EQUAL(error_of(".global .s8 t = -129;"), "PTX line 1: initial value beginning with '-' does not fit type .s8");
  CHECK_EQUAL(error_of(".global .f32 t = 1;"), "PTX line 1: initial value beginning with '1' does not fit type .f32");
  CHECK_EQUAL(error_of(".global .f64 t = 0f3F800000;"),
              "PTX line 1: initial value beginning with '0f3F800000' does not fit type .f64");
  CHECK_EQUAL(error_of(".global .f16 t = 1;"), "PTX line 1: initial values of type .f16 are not supported");
  CHECK_EQUAL(error_of(".global .b8 t[2] = {1, 2, 3};"), "PTX line 1: too many initial values for 't'");
  CHECK_EQUAL(error_of(".global .b8 t[2][2] = {{1}, {2, 3}};"), "PTX line 1: too few initial values in an inner array");
  CHECK_EQUAL(error_of(".global .b8 t[2][2] = {1, 2};"), "PTX line 1: expected '{', found '1'");
  CHECK_EQUAL(error_of(".global .b8 t = {1};"), "PTX line 1: expected a constant, found '{'");
  CHECK_EQUAL(error_of(".shared .b8 t = 1;"), "PTX line 1: 't' cannot have initial values");
  CHECK_EQUAL(error_of(".global .u64 t =\nu;"), "PTX line 2: unknown name 'u'");
  CHECK_EQUAL(error_of(".global .u32 t = t;"), "PTX line 1: the address of 't' needs an integer of 64 bits");
  CHECK_EQUAL(error_of(".global .b8 t[9] = {0xFF(t)};"),
              "PTX line 1: parts of addresses as initial values are not supported");
}

void test_errors_of_functions() {
  CHECK_EQUAL(error_of(".entry k()\n.abi_preserve 3 { }"),
              "PTX line 2: unknown directive '.abi_preserve' of a function");
  CHECK_EQUAL(error_of(".entry k() .maxntid 1, 2, 3, 4 { }"), "PTX line 1: more than three dimensions");
  CHECK_EQUAL(error_of(".entry k(.global .b8 x) { }"), "PTX line 1: expected '.param', found '.global'");
  CHECK_EQUAL(error_of(".entry k(.param .b8 x, .param .b8 x) { }"), "PTX line 1: 'x' is declared twice");
  CHECK_EQUAL(error_of(".entry k { }\n.entry k { }"), "PTX line 2: 'k' is defined twice");
  CHECK_EQUAL(error_of(".entry k { }\n.func k { }"), "PTX line 2: 'k' is both a kernel and a function");
  CHECK_EQUAL(error_of(".global .b8 k; .func k { }"), "PTX line 1: 'k' is declared twice");
  CHECK_EQUAL(error_of(".func (.param .b32 r, ) f;"), "PTX line 1: expected '.param', found ')'");
}

void test_errors_of_statements() {
  CHECK_EQUAL(error_of(".entry k {\n { ret; }\n"),
              "PTX line 3: expected a statement or '}', found the end of the text");
  CHECK_EQUAL(error_in_kernel(".maxntid 3;"), "PTX line 5: unknown directive '.maxntid' in the body of a function");
  CHECK_EQUAL(error_in_kernel(".global .b8 x;"), "PTX line 5: unknown directive '.global' in the body of a function");
  CHECK_EQUAL(error_in_kernel("\n.loc 1 2;"), "PTX line 6: expected a constant, found ';'");
  CHECK_EQUAL(error_in_kernel(".loc 1 2 3, x"), "PTX line 5: expected 'inlined_at', found 'x'");
  CHECK_EQUAL(error_in_kernel(".reg .v2 .f32 x;"), "PTX line 5: registers of vectors are not supported");
  CHECK_EQUAL(error_in_kernel(".reg .b32 x, x;"), "PTX line 5: 'x' is declared twice");
  CHECK_EQUAL(error_in_kernel(".reg .b32 x; .shared .b32 x;"), "PTX line 5: 'x' is declared twice");
  CHECK_EQUAL(error_in_kernel(".reg .b32 x<3>; .reg .b32 x2;"), "PTX line 5: 'x2' is declared twice");
  CHECK_EQUAL(error_in_kernel(".reg .b32 x2; .reg .b32 x<3>;"), "PTX line 5: 'x2' is declared twice");
  CHECK_EQUAL(error_in_kernel(".reg .b32 x<3>; .reg .b32 x<2>;"), "PTX line 5: registers 'x' are declared twice");
  CHECK_EQUAL(error_in_kernel(".reg .b32 x3; .reg .b32 x<3>;"), "no error");
  CHECK_EQUAL(error_in_kernel(".local .b32 x = 3;"), "PTX line 5: 'x' cannot have initial values");
  CHECK_EQUAL(error_in_kernel(".reg .b32 x; @x ret;"), "PTX line 5: the guard 'x' is not a predicate");
  CHECK_EQUAL(error_in_kernel("@%tid.x ret;"), "PTX line 5: '%tid.x' is not a register");
  CHECK_EQUAL(error_in_kernel(".reg .pred x; @x y: ret;"), "PTX line 5: expected an operand, found ':'");
  CHECK_EQUAL(error_in_kernel(".reg .pred x; @x { ret; }"), "PTX line 5: expected an instruction, found '{'");
  CHECK_EQUAL(error_in_kernel("ret\nret;"), "PTX line 6: unknown name 'ret'");
  CHECK_EQUAL(error_in_kernel("ret"), "PTX line 6: expected an operand, found '}'");
}

void test_errors_of_operands() {
  CHECK_EQUAL(error_in_kernel("\nadd.s32 x, 1;"), "PTX line 6: unknown name 'x'");
  CHECK_EQUAL(error_in_kernel(".reg .b32 %r<5>; a %r5;"), "PTX line 5: register '%r5' is not declared");
  CHECK_EQUAL(error_in_kernel(".reg .b32 %r<5>; a %r05, %r;"), "no error");  // for all it knows, special registers
  CHECK_EQUAL(error_in_kernel(".reg .b32 %r<5>; a %r1.x;"),
              "PTX line 5: '%r1.x': parts of registers are not supported");
  CHECK_EQUAL(error_in_kernel("{ .reg .b32 x; }\na x;"), "PTX line 6: unknown name 'x'");
  CHECK_EQUAL(error_in_kernel("a x; .reg .b32 x;"), "PTX line 5: unknown name 'x'");
  CHECK_EQUAL(error_in_kernel("a [k];"), "PTX line 5: 'k' is no address: neither a register nor a variable");
  CHECK_EQUAL(error_in_kernel("a [%tid.x];"), "PTX line 5: '%tid.x' is no address: neither a register nor a variable");
  CHECK_EQUAL(error_in_kernel("a [p+p];"), "PTX line 5: expected a constant, found 'p'");
  CHECK_EQUAL(error_in_kernel("a [p;"), "PTX line 5: expected ']', found ';'");
  CHECK_EQUAL(error_in_kernel("a {};"), "PTX line 5: expected an operand, found '}'");
  CHECK_EQUAL(error_in_kernel("a {1;"), "PTX line 5: expected '}', found ';'");
  CHECK_EQUAL(error_in_kernel("a 1,;"), "PTX line 5: expected an operand, found ';'");
  CHECK_EQUAL(error_in_kernel("a \"x\";"), "PTX line 5: expected an operand, found the string \"x\"");
  CHECK_EQUAL(error_in_kernel("a !p;"), "PTX line 5: 'p' is not a register");
  CHECK_EQUAL(error_in_kernel("a !1;"), "PTX line 5: expected a register, found '1'");
  CHECK_EQUAL(error_in_kernel("a p|_;"), "PTX line 5: both sides of '|' must be registers, at 'p'");
  CHECK_EQUAL(error_in_kernel("a (1, 2);"), "PTX line 5: expected ')', found ','");
  CHECK_EQUAL(error_in_kernel("call x, (p);"), "PTX line 5: unknown name 'x'");
}

void test_errors_of_labels() {
  CHECK_EQUAL(error_in_kernel("\nbra x;\nret;"), "PTX line 6: unknown label 'x'");
  CHECK_EQUAL(error_in_kernel("{ x: }\nbra x;"), "PTX line 6: unknown label 'x'");
  CHECK_EQUAL(error_in_kernel("x: { x: }\nx: ret;"), "PTX line 6: label 'x' is defined twice");
  CHECK_EQUAL(error_in_kernel("x: .branchtargets y;\nbra x; y:"), "PTX line 6: 'x' is no place to branch to");
  CHECK_EQUAL(error_in_kernel("x: .branchtargets y; brx.idx 0, x;"), "PTX line 5: unknown label 'y'");
  CHECK_EQUAL(error_in_kernel("x: brx.idx 0, x;"), "PTX line 5: no .branchtargets 'x' before this");
  CHECK_EQUAL(error_in_kernel("bra 3;"), "PTX line 5: expected a label, found '3'");
  CHECK_EQUAL(error_in_kernel("x: a x;"), "PTX line 5: unknown name 'x'");
}

}  // namespace

int main() {
  test_errors_of_tokens();
  test_errors_of_modules();
  test_errors_of_functions();
  test_errors_of_statements();
  test_errors_of_operands();
  test_errors_of_labels();
  return verdict();
}
