// Instructions through the whole machine: what one gives for operands a, b, c.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "emulator/machine/machine.h"

using namespace emulator;

namespace {

// In the text, d/a/b/c are registers: h… of 16 bits, r… of 32, l… of 64; p and q are predicate results, s is c's lowest
// bit. The result is that of the register whose name begins with the letter in `result`, p and q in bits 0 and 1.
struct Form {
  const char* text;
  char result;
  uint64_t a, b, c, expected;
};

constexpr uint64_t F(float x) { return std::bit_cast<uint32_t>(x); }
constexpr uint64_t D(double x) { return std::bit_cast<uint64_t>(x); }
constexpr uint64_t I(int64_t x) { return uint64_t(x); }
constexpr uint64_t W(int32_t x) { return uint32_t(x); }
constexpr uint64_t kNaN = 0x7FFFFFFF;

const Form kForms[] = {
    {"add.s32 rd, ra, rb;", 'r', W(-5), 3, 0, W(-2)},
    {"add.sat.s32 rd, ra, rb;", 'r', 0x7fffffff, 3, 0, 0x7fffffff},
    {"sub.sat.s32 rd, ra, rb;", 'r', 0x80000000, 3, 0, 0x80000000},
    {"add.u16 hd, ha, hb;", 'h', 0xffff, 3, 0, 2},
    {"add.u64 ld, la, lb;", 'l', ~0ull, 3, 0, 2},
    {"add.s64 ld, la, -8;", 'l', 3, 0, 0, I(-5)},
    {"add.u16x2 rd, ra, rb;", 'r', 0xffff0001, 0x00020003, 0, 0x00010004},
    {"min.s16x2 rd, ra, rb;", 'r', 0xffff0001, 0x00020003, 0, 0xffff0001},
    {"max.s16x2.relu rd, ra, rb;", 'r', 0xffff8001, 0xfffe0003, 0, 0x00000003},
    {"max.relu.s32 rd, ra, rb;", 'r', W(-3), W(-4), 0, 0},
    {"min.s64 ld, la, lb;", 'l', I(-3), 4, 0, I(-3)},
    {"max.u32 rd, ra, rb;", 'r', W(-3), 4, 0, W(-3)},
    {"mul.lo.s32 rd, ra, rb;", 'r', 0x12345678, 0x9abcdef0, 0, 0x242d2080},
    {"mul.hi.s32 rd, ra, rb;", 'r', W(-2), 3, 0, W(-1)},
    {"mul.hi.u32 rd, ra, rb;", 'r', W(-2), 3, 0, 2},
    {"mul.wide.s32 ld, ra, rb;", 'l', W(-2), 3, 0, I(-6)},
    {"mul.wide.u32 ld, ra, rb;", 'l', 0xffffffff, 0xffffffff, 0, 0xfffffffe00000001},
    {"mul.wide.s16 rd, ha, hb;", 'r', 0xfffe, 3, 0, W(-6)},
    {"mul.wide.u16 rd, ha, hb;", 'r', 0xffff, 0xffff, 0, 0xfffe0001},
    {"mul.lo.s16 hd, ha, hb;", 'h', 0xfffe, 3, 0, 0xfffa},
    {"mul.lo.u16 hd, ha, hb;", 'h', 0xffff, 0xffff, 0, 1},
    {"mul.hi.u16 hd, ha, hb;", 'h', 0xffff, 0xffff, 0, 0xfffe},
    {"mul.hi.u64 ld, la, lb;", 'l', ~0ull, ~0ull, 0, ~0ull - 1},
    {"mul.hi.s64 ld, la, lb;", 'l', I(-1), 5, 0, I(-1)},
    {"mul.lo.s64 ld, la, lb;", 'l', I(-3), 5, 0, I(-15)},
    {"mad.lo.s32 rd, ra, rb, rc;", 'r', W(-3), 5, 20, 5},
    {"mad.hi.u32 rd, ra, rb, rc;", 'r', 0x80000000, 6, 20, 23},
    {"mad.hi.sat.s32 rd, ra, rb, rc;", 'r', 0x40000000, 0x40000000, 0x7fffffff, 0x7fffffff},
    {"mad.wide.s32 ld, ra, rb, lc;", 'l', W(-3), 5, 20, 5},
    {"mad.wide.u16 rd, ha, hb, rc;", 'r', 0xffff, 2, 1, 0x1ffff},
    {"mad.lo.u64 ld, la, lb, lc;", 'l', 1ull << 40, 1 << 20, 7, (1ull << 60) + 7},
    {"mul24.lo.s32 rd, ra, rb;", 'r', 0x00ffffff, 2, 0, W(-2)},
    {"mul24.hi.u32 rd, ra, rb;", 'r', 0xffffffff, 0xffffff, 0, 0xfffffe00},
    {"mad24.lo.u32 rd, ra, rb, rc;", 'r', 0xff000003, 2, 1, 7},
    {"sad.u32 rd, ra, rb, rc;", 'r', 3, 10, 1, 8},
    {"sad.s16 hd, ha, hb, hc;", 'h', 0xffff, 1, 1, 3},
    {"div.s32 rd, ra, rb;", 'r', W(-7), 2, 0, W(-3)},
    {"div.s32 rd, ra, rb;", 'r', 0x80000000, W(-1), 0, 0x80000000},
    {"div.u32 rd, ra, rb;", 'r', 5, 0, 0, 0xffffffff},
    {"div.s64 ld, la, lb;", 'l', I(-100), 7, 0, I(-14)},
    {"div.u16 hd, ha, hb;", 'h', 1000, 7, 0, 142},
    {"rem.s32 rd, ra, rb;", 'r', W(-7), 2, 0, W(-1)},
    {"rem.s32 rd, ra, rb;", 'r', 0x80000000, W(-1), 0, 0},
    {"rem.u64 ld, la, lb;", 'l', 100, 7, 0, 2},
    {"abs.s32 rd, ra;", 'r', W(-7), 0, 0, 7},
    {"abs.s16 hd, ha;", 'h', 0x8000, 0, 0, 0x8000},
    {"neg.s64 ld, la;", 'l', 5, 0, 0, I(-5)},
    {"popc.b32 rd, ra;", 'r', 0xf0f0, 0, 0, 8},
    {"popc.b64 rd, la;", 'r', ~0ull, 0, 0, 64},
    {"clz.b32 rd, ra;", 'r', 0, 0, 0, 32},
    {"clz.b64 rd, la;", 'r', 1, 0, 0, 63},
    {"brev.b32 rd, ra;", 'r', 1, 0, 0, 0x80000000},
    {"brev.b64 ld, la;", 'l', 3, 0, 0, 3ull << 62},
    {"bfind.u32 rd, ra;", 'r', 0, 0, 0, 0xffffffff},
    {"bfind.u32 rd, ra;", 'r', 0x10, 0, 0, 4},
    {"bfind.s32 rd, ra;", 'r', 0xfffffff0, 0, 0, 3},
    {"bfind.shiftamt.u64 rd, la;", 'r', 0x10, 0, 0, 59},
    {"bfe.u32 rd, ra, rb, rc;", 'r', 0x12345678, 8, 8, 0x56},
    {"bfe.s32 rd, ra, rb, rc;", 'r', 0x0000f000, 8, 8, 0xfffffff0},
    {"bfe.s32 rd, ra, rb, rc;", 'r', 0x80000000, 30, 8, 0xfffffffe},
    {"bfe.s32 rd, ra, rb, rc;", 'r', 0x80000000, 40, 8, 0xffffffff},
    {"bfe.u32 rd, ra, rb, rc;", 'r', 0x80000000, 0, 0, 0},
    {"bfe.u32 rd, ra, rb, rc;", 'r', 0x89abcdef, 0, 32, 0x89abcdef},
    {"bfe.s64 ld, la, rb, rc;", 'l', 0xf00, 8, 4, I(-1)},
    {"bfi.b32 rd, ra, rb, 8, 4;", 'r', 0xf5, 0xffffffff, 0, 0xfffff5ff},
    {"bfi.b32 rd, ra, rb, 28, 32;", 'r', 0xf5, 0, 0, 0x50000000},
    {"bfi.b64 ld, la, lb, 60, 4;", 'l', 7, 0, 0, 7ull << 60},
    {"bfe.u32 rd, ra, rb, rc;", 'r', 0x12345678, 0x108, 0x108, 0x56},
    {"bfe.u64 ld, la, rb, rc;", 'l', ~0ull, 0x108, 8, 0},
    {"bfe.u64 ld, la, rb, rc;", 'l', ~0ull, 8, 0x108, ~0ull >> 8},
    {"bfe.s64 ld, la, rb, rc;", 'l', I(-8), W(-1), W(-1), I(-1)},
    {"bfi.b64 ld, la, lb, 260, 4;", 'l', 7, 5, 0, 5},
    {"add.cc.u32 t, ra, rb; addc.u32 rd, rc, 0;", 'r', W(-1), 1, 7, 8},
    {"add.cc.u32 t, ra, rb; addc.u32 rd, rc, 0;", 'r', W(-2), 1, 7, 7},
    {"add.cc.u32 t, ra, rb; add.u32 t, ra, ra; addc.cc.s32 t, rc, 0; addc.u32 rd, 0, 0;", 'r', W(-1), 1, W(-1), 1},
    {"sub.cc.u64 ld, la, lb; subc.u64 ld, lc, 0;", 'l', 1, 2, 7, 6},
    {"sub.cc.u64 ld, la, lb; subc.cc.u64 ld, la, la; subc.u64 ld, lc, 0;", 'l', 1, 2, 7, 6},
    {"mad.lo.cc.u32 t, ra, rb, rc; madc.hi.u32 rd, ra, rb, 0;", 'r', 0x10000, 0x1ffff, 0x10000, 2},
    {"mad.lo.cc.s32 t, ra, rb, rc; madc.hi.s32 rd, ra, rb, 0;", 'r', W(-1), 1, 1, 0},
    {"mad.hi.cc.u64 ld, la, lb, lc; addc.u64 ld, 0, 0;", 'l', ~0ull, ~0ull, 2, 1},
    {"fns.b32 rd, ra, 3, 1;", 'r', 0xaaaaaaaa, 0, 0, 3},
    {"fns.b32 rd, ra, 2, -1;", 'r', 0xaaaaaaaa, 0, 0, 1},
    {"fns.b32 rd, ra, 2, 0;", 'r', 0xaaaaaaaa, 0, 0, 0xffffffff},
    {"bmsk.clamp.b32 rd, ra, rb;", 'r', 1, 2, 0, 6},
    {"bmsk.clamp.b32 rd, ra, rb;", 'r', 4, 40, 0, 0xfffffff0},
    {"bmsk.wrap.b32 rd, ra, rb;", 'r', 33, 2, 0, 6},
    {"szext.wrap.u32 rd, ra, rb;", 'r', 0xffffffff, 0, 0, 0},
    {"szext.clamp.s32 rd, ra, rb;", 'r', 0x8f, 8, 0, 0xffffff8f},
    {"dp4a.s32.s32 rd, ra, rb, rc;", 'r', 0xff020304, 0x01010101, 10, 18},
    {"dp4a.u32.s32 rd, ra, rb, rc;", 'r', 0xff000000, 0xff000000, 0, W(-255)},
    {"dp2a.hi.s32.u32 rd, ra, rb, rc;", 'r', 0xffff0002, 0x03040000, 0, 5},
    {"add.f32 rd, ra, rb;", 'r', F(1), F(2.5), 0, F(3.5)},
    {"add.f32 rd, ra, rb;", 'r', F(1), 0x7fc00000, 0, kNaN},
    {"add.ftz.f32 rd, ra, rb;", 'r', 0x00000001, 0x80000001, 0, 0},
    {"add.f32 rd, ra, rb;", 'r', 0x00000001, 0x00000001, 0, 2},
    {"add.rz.f32 rd, ra, rb;", 'r', F(1), F(-0x1p-40f), 0, F(1 - 0x1p-24f)},
    {"add.rp.f32 rd, ra, rb;", 'r', F(1), F(0x1p-40f), 0, F(1 + 0x1p-23f)},
    {"add.sat.f32 rd, ra, rb;", 'r', F(1), F(2), 0, F(1)},
    {"add.rn.ftz.sat.f32 rd, ra, rb;", 'r', F(-1), 0x7f800001, 0, 0},
    {"sub.f32 rd, ra, rb;", 'r', F(1), F(2.5), 0, F(-1.5)},
    {"sub.rm.f32 rd, ra, rb;", 'r', F(1), F(1), 0, F(-0.0f)},
    {"mul.f32 rd, ra, rb;", 'r', F(3), F(2.5), 0, F(7.5)},
    {"mul.f32 rd, ra, 0f40000000;", 'r', F(3), 0, 0, F(6)},
    {"mul.ftz.f32 rd, ra, rb;", 'r', F(-0x1p-100f), F(0x1p-40f), 0, F(-0.0f)},
    {"fma.rn.f32 rd, ra, rb, rc;", 'r', F(1 + 0x1p-23f), F(1 + 0x1p-23f), F(-1), F(0x1p-22f + 0x1p-46f)},
    {"fma.rn.ftz.f32 rd, ra, rb, rc;", 'r', F(0x1p-130f), F(0x1p120f), F(1), F(1)},
    {"fma.rz.f32 rd, ra, rb, rc;", 'r', F(1 + 0x1p-23f), F(1 + 0x1p-23f), F(0), F(1 + 0x1p-22f)},
    {"fma.rp.f32 rd, ra, rb, rc;", 'r', F(1 + 0x1p-23f), F(1 + 0x1p-23f), F(0), F(1 + 0x1p-22f + 0x1p-23f)},
    {"fma.rn.sat.f32 rd, ra, rb, rc;", 'r', F(4), F(4), F(0), F(1)},
    {"mad.rn.f32 rd, ra, rb, rc;", 'r', F(4), F(4), F(1), F(17)},
    {"add.f64 ld, la, lb;", 'l', D(1), D(2.5), 0, D(3.5)},
    {"sub.rz.f64 ld, la, lb;", 'l', D(1), D(0x1p-80), 0, D(1 - 0x1p-53)},
    {"mul.rp.f64 ld, la, lb;", 'l', D(1 + 0x1p-52), D(1 + 0x1p-52), 0, D(1 + 0x1p-51 + 0x1p-52)},
    {"fma.rn.f64 ld, la, lb, lc;", 'l', D(2), D(3), D(4), D(10)},
    {"add.f16 hd, ha, hb;", 'h', 0x3c00, 0x3c00, 0, 0x4000},
    {"add.f16 hd, ha, hb;", 'h', 0x7c00, 0xfc00, 0, 0x7fff},
    {"add.f16x2 rd, ra, rb;", 'r', 0x3c004000, 0x3c003c00, 0, 0x40004200},
    {"mul.rn.f16x2 rd, ra, rb;", 'r', 0x3c004000, 0xbc003c00, 0, 0xbc004000},
    {"sub.sat.f16 hd, ha, hb;", 'h', 0x4200, 0x3c00, 0, 0x3c00},
    {"mul.ftz.f16 hd, ha, hb;", 'h', 0x0400, 0x3800, 0, 0},
    {"fma.rn.f16 hd, ha, hb, hc;", 'h', 0x3c01, 0x3c01, 0xbc00, 0x1800},
    {"fma.rn.relu.f16 hd, ha, hb, hc;", 'h', 0x3c00, 0xc000, 0x3c00, 0},
    {"fma.rn.bf16x2 rd, ra, rb, rc;", 'r', 0x3f804000, 0x3f803f80, 0x3f803f80, 0x40004040},
    {"fma.rn.relu.bf16 hd, ha, hb, hc;", 'h', 0x3f80, 0xc000, 0x3f80, 0},
    {"add.rn.bf16x2 rd, ra, rb;", 'r', 0x3f804000, 0x3f803f80, 0, 0x40004040},
    {"mul.bf16 hd, ha, hb;", 'h', 0x4000, 0x4040, 0, 0x40c0},
    {"div.rn.f32 rd, ra, rb;", 'r', F(1), F(3), 0, F(1.0f / 3)},
    {"div.rz.f32 rd, ra, rb;", 'r', F(2), F(3), 0, 0x3f2aaaaa},
    {"div.approx.f32 rd, ra, rb;", 'r', F(6), F(3), 0, F(2)},
    {"div.approx.f32 rd, ra, rb;", 'r', F(0x1p127f), F(0x1p127f), 0, F(0)},
    {"div.approx.ftz.f32 rd, ra, rb;", 'r', F(6), F(3), 0, F(2)},
    {"div.full.f32 rd, ra, rb;", 'r', F(6), F(3), 0, F(2)},
    {"div.full.ftz.f32 rd, ra, rb;", 'r', F(6), F(3), 0, F(2)},
    {"div.rn.f64 ld, la, lb;", 'l', D(1), D(3), 0, D(1.0 / 3)},
    {"rcp.rn.f32 rd, ra;", 'r', F(3), 0, 0, F(1.0f / 3)},
    {"rcp.approx.ftz.f32 rd, ra;", 'r', 0x00000001, 0, 0, 0x7f800000},
    {"rcp.approx.f32 rd, ra;", 'r', F(4), 0, 0, F(0.25)},
    {"rcp.rp.ftz.f32 rd, ra;", 'r', F(3), 0, 0, F(1.0f / 3)},
    {"rcp.rn.f64 ld, la;", 'l', D(4), 0, 0, D(0.25)},
    {"sqrt.rn.f32 rd, ra;", 'r', F(2), 0, 0, 0x3fb504f3},
    {"sqrt.rp.f32 rd, ra;", 'r', F(2), 0, 0, 0x3fb504f4},
    {"sqrt.approx.ftz.f32 rd, ra;", 'r', F(4), 0, 0, F(2)},
    {"sqrt.rn.f64 ld, la;", 'l', D(4), 0, 0, D(2)},
    {"rsqrt.approx.f32 rd, ra;", 'r', F(4), 0, 0, F(0.5)},
    {"rsqrt.approx.ftz.f32 rd, ra;", 'r', 0x80000001, 0, 0, 0xff800000},
    {"rsqrt.approx.f64 ld, la;", 'l', D(4), 0, 0, D(0.5)},
    {"ex2.approx.ftz.f32 rd, ra;", 'r', F(10), 0, 0, F(1024)},
    {"ex2.approx.f32 rd, ra;", 'r', F(-149), 0, 0, 1},
    {"ex2.approx.ftz.f32 rd, ra;", 'r', F(-149), 0, 0, 0},
    {"ex2.approx.f16x2 rd, ra;", 'r', 0x3c004000, 0, 0, 0x40004400},
    {"ex2.approx.ftz.bf16 hd, ha;", 'h', 0x3f80, 0, 0, 0x4000},
    {"lg2.approx.ftz.f32 rd, ra;", 'r', F(1024), 0, 0, F(10)},
    {"lg2.approx.f32 rd, ra;", 'r', F(-1), 0, 0, kNaN},
    {"sin.approx.f32 rd, ra;", 'r', F(0), 0, 0, F(0)},
    {"cos.approx.ftz.f32 rd, ra;", 'r', F(0), 0, 0, F(1)},
    {"tanh.approx.f32 rd, ra;", 'r', F(100), 0, 0, F(1)},
    {"tanh.approx.bf16x2 rd, ra;", 'r', 0x7f80ff80, 0, 0, 0x3f80bf80},
    {"min.f32 rd, ra, rb;", 'r', F(0.0f), F(-0.0f), 0, F(-0.0f)},
    {"max.f32 rd, ra, rb;", 'r', F(-0.0f), F(0.0f), 0, F(0.0f)},
    {"max.f32 rd, ra, rb;", 'r', 0x7fc00000, F(2), 0, F(2)},
    {"max.f32 rd, ra, rb;", 'r', F(3), 0x7fc00000, 0, F(3)},
    {"max.f32 rd, ra, rb;", 'r', 0xffc00000, 0x7fc00000, 0, kNaN},
    {"max.NaN.f32 rd, ra, rb;", 'r', F(3), 0x7fc00000, 0, kNaN},
    {"max.ftz.f32 rd, ra, rb;", 'r', 0x80000001, 0x00000001, 0, 0},
    {"min.ftz.NaN.xorsign.abs.f32 rd, ra, rb;", 'r', F(-3), F(5), 0, F(-3)},
    {"max.xorsign.abs.f32 rd, ra, rb;", 'r', F(-3), F(-5), 0, F(5)},
    {"min.f64 ld, la, lb;", 'l', D(-3), D(5), 0, D(-3)},
    {"max.f16 hd, ha, hb;", 'h', 0x3c00, 0x7e00, 0, 0x3c00},
    {"add.f64 ld, la, lb;", 'l', 0x7ff8000000000001, 0xfff0000000000002, 0, 0xfff8000000000002},
    {"fma.rn.f64 ld, la, lb, lc;", 'l', 0x7ff8000000000001, D(1), 0x7ff8000000000003, 0x7ff8000000000003},
    {"fma.rn.f64 ld, la, lb, lc;", 'l', D(1), 0x7ff8000000000002, 0x7ff8000000000003, 0x7ff8000000000002},
    {"div.rn.f64 ld, la, lb;", 'l', 0x7ff8000000000001, 0x7ff8000000000002, 0, 0x7ff8000000000001},
    {"min.f64 ld, la, lb;", 'l', 0x7ff8000000000001, 0x7ff0000000000002, 0, 0x7ff8000000000002},
    {"neg.f64 ld, la;", 'l', 0x7ff0000000000001, 0, 0, 0x7ff8000000000001},
    {"abs.f64 ld, la;", 'l', 0xfff8000000000000, 0, 0, 0xfff8000000000000},
    {"mul.ftz.f16 hd, ha, hb;", 'h', 0x8400, 0x3bff, 0, 0x8000},
    {"mul.f16 hd, ha, hb;", 'h', 0x8400, 0x3bff, 0, 0x8400},
    {"mul.ftz.f32 rd, ra, rb;", 'r', F(-0x1p-126f), 0x3f7fffff, 0, 0x80000000},
    {"fma.rn.ftz.f32 rd, ra, rb, rc;", 'r', F(0x1p-126f), 0x3f7fffff, 0, 0},
    {"fma.rn.ftz.f32 rd, ra, rb, rc;", 'r', F(0x1p-126f), F(1), 0, F(0x1p-126f)},
    {"div.rp.ftz.f32 rd, ra, rb;", 'r', F(0x1p-126f), 0x3f800001, 0, 0},
    {"rcp.approx.ftz.f64 ld, la;", 'l', D(4) | 1, 0, 0, D(0.25)},
    {"rcp.approx.ftz.f64 ld, la;", 'l', D(3), 0, 0, 0x3fd5555500000000},
    {"rcp.approx.ftz.f64 ld, la;", 'l', D(-0x1p-1030), 0, 0, D(-HUGE_VAL)},
    {"rcp.approx.ftz.f64 ld, la;", 'l', D(-0x1p1023), 0, 0, D(-0.0)},
    {"rsqrt.approx.ftz.f64 ld, la;", 'l', D(16), 0, 0, D(0.25)},
    {"max.NaN.bf16x2 rd, ra, rb;", 'r', 0x3f80ffff, 0x40003f80, 0, 0x40007fff},
    {"min.ftz.f16x2 rd, ra, rb;", 'r', 0x00013c00, 0x00024000, 0, 0x00003c00},
    {"abs.f32 rd, ra;", 'r', F(-3), 0, 0, F(3)},
    {"abs.ftz.f32 rd, ra;", 'r', 0x80000001, 0, 0, 0},
    {"neg.f32 rd, ra;", 'r', 0x7fc00000, 0, 0, kNaN},
    {"neg.ftz.f32 rd, ra;", 'r', F(3), 0, 0, F(-3)},
    {"neg.f64 ld, la;", 'l', D(3), 0, 0, D(-3)},
    {"neg.bf16x2 rd, ra;", 'r', 0x3f80bf80, 0, 0, 0xbf803f80},
    {"abs.f16x2 rd, ra;", 'r', 0xbc003c00, 0, 0, 0x3c003c00},
    {"copysign.f32 rd, ra, rb;", 'r', F(-1), F(5), 0, F(-5)},
    {"copysign.f64 ld, la, lb;", 'l', D(-1), D(5), 0, D(-5)},
    {"testp.normal.f32 p, ra;", 'p', F(0), 0, 0, 1},
    {"testp.subnormal.f64 p, la;", 'p', 1, 0, 0, 1},
    {"testp.notanumber.f32 p, ra;", 'p', kNaN, 0, 0, 1},
    {"testp.infinite.f32 p, ra;", 'p', F(0), 0, 0, 0},
    {"cvt.rn.bf16x2.f32 rd, ra, rb;", 'r', F(1), F(-2), 0, 0x3f80c000},
    {"cvt.rn.f16x2.f32 rd, ra, rb;", 'r', F(1), F(-2), 0, 0x3c00c000},
    {"cvt.rz.relu.bf16x2.f32 rd, ra, rb;", 'r', 0x3f80ffff, F(-2), 0, 0x3f800000},
    {"cvt.rn.satfinite.f16x2.f32 rd, ra, rb;", 'r', F(1e9), F(-1e9), 0, 0x7bfffbff},
    {"cvt.rn.bf16.f32 hd, ra;", 'h', 0x3f808001, 0, 0, 0x3f81},
    {"cvt.rn.relu.bf16.f32 hd, ra;", 'h', F(-1), 0, 0, 0},
    {"cvt.rz.bf16.f32 hd, ra;", 'h', 0x3f80ffff, 0, 0, 0x3f80},
    {"cvt.rn.f16.f32 hd, ra;", 'h', F(65520), 0, 0, 0x7c00},
    {"cvt.rz.f16.f32 hd, ra;", 'h', F(65520), 0, 0, 0x7bff},
    {"cvt.rn.satfinite.relu.f16.f32 hd, ra;", 'h', F(65520), 0, 0, 0x7bff},
    {"cvt.f32.f16 rd, ha;", 'r', 0x3c00, 0, 0, F(1)},
    {"cvt.f32.bf16 rd, ha;", 'r', 0x3f80, 0, 0, F(1)},
    {"cvt.f64.f16 ld, ha;", 'l', 0x3c00, 0, 0, D(1)},
    {"cvt.rn.f16.f64 hd, la;", 'h', D(1 + 0x1p-11 + 0x1p-50), 0, 0, 0x3c01},
    {"cvt.rn.f32.f64 rd, la;", 'r', D(0x1p-150 + 0x1p-190), 0, 0, 1},
    {"cvt.rm.f32.f64 rd, la;", 'r', D(1 - 0x1p-40), 0, 0, F(1 - 0x1p-24f)},
    {"cvt.rp.ftz.f32.f64 rd, la;", 'r', D(0x1p-140), 0, 0, 0},
    {"cvt.f64.f32 ld, ra;", 'l', F(1.5), 0, 0, D(1.5)},
    {"cvt.ftz.f64.f32 ld, ra;", 'l', 1, 0, 0, 0},
    {"cvt.rni.f32.f32 rd, ra;", 'r', F(2.5), 0, 0, F(2)},
    {"cvt.rpi.f32.f32 rd, ra;", 'r', F(-0.5), 0, 0, F(-0.0f)},
    {"cvt.rmi.f64.f64 ld, la;", 'l', D(-0.5), 0, 0, D(-1)},
    {"cvt.rzi.f16.f16 hd, ha;", 'h', 0x3e00, 0, 0, 0x3c00},
    {"cvt.sat.f32.f32 rd, ra;", 'r', F(2.5), 0, 0, F(1)},
    {"cvt.ftz.f32.f32 rd, ra;", 'r', 1, 0, 0, 0},
    {"cvt.rzi.s32.f32 rd, ra;", 'r', F(-2.9f), 0, 0, W(-2)},
    {"cvt.rni.s32.f32 rd, ra;", 'r', F(3e9f), 0, 0, 0x7fffffff},
    {"cvt.rzi.u32.f32 rd, ra;", 'r', F(-2.9f), 0, 0, 0},
    {"cvt.rzi.s32.f32 rd, ra;", 'r', kNaN, 0, 0, 0},
    {"cvt.rzi.s64.f32 ld, ra;", 'l', kNaN, 0, 0, 1ull << 63},
    {"cvt.rzi.s32.f64 rd, la;", 'r', 0x7ff8ull << 48, 0, 0, 0x80000000},
    {"cvt.rzi.u64.f64 ld, la;", 'l', D(1e30), 0, 0, ~0ull},
    {"cvt.rmi.s64.f64 ld, la;", 'l', D(-1e30), 0, 0, 1ull << 63},
    {"cvt.rzi.ftz.s32.f32 rd, ra;", 'r', F(7.5), 0, 0, 7},
    {"cvt.rzi.s16.f16 hd, ha;", 'h', 0xc100, 0, 0, 0xfffe},
    {"cvt.rzi.u8.f32 rd, ra;", 'r', F(300), 0, 0, 255},
    {"cvt.rzi.s8.f32 rd, ra;", 'r', F(-300), 0, 0, W(-128)},
    {"cvt.rn.f32.s32 rd, ra;", 'r', W(-16777217), 0, 0, F(-16777216)},
    {"cvt.rp.f32.u32 rd, ra;", 'r', 16777217, 0, 0, F(16777218)},
    {"cvt.rn.f32.u64 rd, la;", 'r', (1ull << 54) + (1ull << 30) + 1, 0, 0, F(0x1p54f + 0x1p31f)},
    {"cvt.rn.f64.s64 ld, la;", 'l', I(-5), 0, 0, D(-5)},
    {"cvt.rz.f64.u64 ld, la;", 'l', ~0ull, 0, 0, D(0x1p64 - 0x1p11)},
    {"cvt.rn.f64.s32 ld, ra;", 'l', W(-5), 0, 0, D(-5)},
    {"cvt.rn.f16.s32 hd, ra;", 'h', W(-5), 0, 0, 0xc500},
    {"cvt.rn.bf16.s64 hd, la;", 'h', 3, 0, 0, 0x4040},
    {"cvt.rn.f32.s8 rd, ra;", 'r', 0x1ff, 0, 0, F(-1)},
    {"cvt.s64.s32 ld, ra;", 'l', W(-5), 0, 0, I(-5)},
    {"cvt.u64.u32 ld, ra;", 'l', W(-5), 0, 0, W(-5)},
    {"cvt.u32.u64 rd, la;", 'r', 0x123456789abcdef0, 0, 0, 0x9abcdef0},
    {"cvt.s32.s8 rd, ra;", 'r', 0x1ff, 0, 0, W(-1)},
    {"cvt.s32.s16 rd, ha;", 'r', 0xffff, 0, 0, W(-1)},
    {"cvt.u32.u16 rd, ha;", 'r', 0xffff, 0, 0, 0xffff},
    {"cvt.u8.u32 rd, ra;", 'r', 0x1234, 0, 0, 0x34},
    {"cvt.s8.s32 rd, ra;", 'r', 0x12f4, 0, 0, 0xfffffff4},
    {"cvt.u16.u32 hd, ra;", 'h', 0x12345678, 0, 0, 0x5678},
    {"cvt.s16.s8 hd, ha;", 'h', 0x00ff, 0, 0, 0xffff},
    {"cvt.sat.u8.s32 rd, ra;", 'r', 0x1234, 0, 0, 0xff},
    {"cvt.sat.s16.s32 hd, ra;", 'h', W(-70000), 0, 0, 0x8000},
    {"cvt.sat.u32.s32 rd, ra;", 'r', W(-7), 0, 0, 0},
    {"cvt.sat.s32.u64 rd, la;", 'r', ~0ull, 0, 0, 0x7fffffff},
    {"cvt.rn.satfinite.e4m3x2.f32 hd, ra, rb;", 'h', F(1), F(1000), 0, 0x387e},
    {"cvt.rn.satfinite.relu.e5m2x2.f32 hd, ra, rb;", 'h', F(-1), F(1e9), 0, 0x007b},
    {"cvt.rn.satfinite.e4m3x2.f16x2 hd, ra;", 'h', 0x3c007fff, 0, 0, 0x387f},
    {"cvt.rn.f16x2.e4m3x2 rd, ha;", 'r', 0x3878, 0, 0, 0x38005c00 - 0x38000000 + 0x3c000000 - 0x400 + 0x400},
    {"cvt.rn.relu.f16x2.e5m2x2 rd, ha;", 'r', 0x3cbc, 0, 0, 0x3c000000},
    {"cvt.rna.tf32.f32 rd, ra;", 'r', 0x3f801000, 0, 0, 0x3f802000},
    {"cvt.rna.tf32.f32 rd, ra;", 'r', 0xffc12fff, 0, 0, 0xffc12000},
    {"cvt.rna.satfinite.tf32.f32 rd, ra;", 'r', 0xffc12fff, 0, 0, 0xffc10000},
    {"cvt.rz.tf32.f32 rd, ra;", 'r', 0xffc12fff, 0, 0, 0x7fffe000},
    {"cvt.rn.f32.f64 rd, la;", 'r', 0xfff0000060000001, 0, 0, 0xffc00003},
    {"cvt.rz.ftz.f32.f64 rd, la;", 'r', 0xfff0000060000001, 0, 0, 0xffc00003},
    {"cvt.rn.sat.f32.f64 rd, la;", 'r', 0xfff0000060000001, 0, 0, 0},
    {"cvt.rn.bf16.f64 hd, la;", 'h', 0xfff3ull << 48, 0, 0, 0xffd8},
    {"cvt.rmi.f64.f64 ld, la;", 'l', 0xfff0000000000001, 0, 0, 0xfff8000000000001},
    {"cvt.f64.f16 ld, ha;", 'l', 0xfc01, 0, 0, 0xfff8040000000000},
    {"cvt.f64.f32 ld, ra;", 'l', 0xff800001, 0, 0, 0xfff8000020000000},
    {"cvt.ftz.f64.f32 ld, ra;", 'l', 0xff800001, 0, 0, 0x7fffffffe0000000},
    {"cvt.rp.ftz.f16.f32 hd, ra;", 'h', 1, 0, 0, 1},
    {"cvt.rn.tf32.f32 rd, ra;", 'r', 0x3f801000, 0, 0, 0x3f800000},
    {"cvt.rz.relu.tf32.f32 rd, ra;", 'r', F(-1), 0, 0, 0},
    {"cvt.pack.sat.s16.s32 rd, ra, rb;", 'r', 70000, W(-70000), 0, 0x7fff8000},
    {"cvt.pack.sat.u8.s32.b32 rd, ra, rb, rc;", 'r', 70000, 7, 0x1234, 0x1234ff07},
    {"and.b32 rd, ra, rb;", 'r', 0xff00, 0x0ff0, 0, 0x0f00},
    {"or.b16 hd, ha, hb;", 'h', 0xff00, 0x0ff0, 0, 0xfff0},
    {"xor.b64 ld, la, lb;", 'l', ~0ull, 5, 0, ~5ull},
    {"not.b32 rd, ra;", 'r', 5, 0, 0, W(~5)},
    {"cnot.b32 rd, ra;", 'r', 0, 0, 0, 1},
    {"lop3.b32 rd, ra, rb, rc, 0x1a;", 'r', 0xff00ff00, 0x0ff00ff0, 0x12345678,
     ((0xff00ff00u & 0x0ff00ff0u) | 0x12345678u) ^ 0xff00ff00u},
    {"shl.b32 rd, ra, rb;", 'r', 3, 33, 0, 0},
    {"shl.b64 ld, la, rb;", 'l', 3, 33, 0, 3ull << 33},
    {"shl.b16 hd, ha, rb;", 'h', 0xffff, 15, 0, 0x8000},
    {"shr.s32 rd, ra, rb;", 'r', W(-8), 40, 0, W(-1)},
    {"shr.u32 rd, ra, rb;", 'r', W(-8), 40, 0, 0},
    {"shr.s64 ld, la, 3;", 'l', I(-16), 0, 0, I(-2)},
    {"shr.u16 hd, ha, 1;", 'h', 0x8000, 0, 0, 0x4000},
    {"shr.s16 hd, ha, 1;", 'h', 0x8000, 0, 0, 0xc000},
    {"shr.b32 rd, ra, 1;", 'r', 0x80000000, 0, 0, 0x40000000},
    {"shf.l.wrap.b32 rd, ra, rb, rc;", 'r', 0x80000000, 1, 33, 3},
    {"shf.l.clamp.b32 rd, ra, rb, rc;", 'r', 0x80000001, 1, 33, 0x80000001},
    {"shf.r.clamp.b32 rd, ra, rb, rc;", 'r', 0x80000001, 7, 33, 7},
    {"shf.r.wrap.b32 rd, ra, rb, rc;", 'r', 0x80000000, 1, 1, 0xc0000000},
    {"prmt.b32 rd, ra, rb, rc;", 'r', 0x83828180, 0x87868504, 0x7540, 0x87850480},
    {"prmt.b32 rd, ra, rb, rc;", 'r', 0x83828180, 0x07060504, 0xc8f0, 0x00ff0080},
    {"prmt.b32.f4e rd, ra, rb, rc;", 'r', 0x03020100, 0x07060504, 1, 0x04030201},
    {"prmt.b32.b4e rd, ra, rb, rc;", 'r', 0x03020100, 0x07060504, 1, 0x06070001},
    {"prmt.b32.rc8 rd, ra, rb, rc;", 'r', 0x03020100, 0x07060504, 2, 0x02020202},
    {"prmt.b32.ecl rd, ra, rb, rc;", 'r', 0x03020100, 0x07060504, 2, 0x03020202},
    {"prmt.b32.ecr rd, ra, rb, rc;", 'r', 0x03020100, 0x07060504, 2, 0x02020100},
    {"prmt.b32.rc16 rd, ra, rb, rc;", 'r', 0x03020100, 0x07060504, 3, 0x03020302},
    {"setp.lt.s32 p, ra, rb;", 'p', W(-1), 1, 0, 1},
    {"setp.lt.u32 p, ra, rb;", 'p', W(-1), 1, 0, 0},
    {"setp.lo.u64 p, la, lb;", 'p', 1, 2, 0, 1},
    {"setp.hs.u16 p, ha, hb;", 'p', 2, 2, 0, 1},
    {"setp.ge.s16 p, ha, hb;", 'p', 0xffff, 1, 0, 0},
    {"setp.eq.b16 p, ha, hb;", 'p', 0xffff, 0xffff, 0, 1},
    {"setp.ne.b32 p, ra, 0;", 'p', 5, 0, 0, 1},
    {"setp.gt.s64 p, la, -1;", 'p', 5, 0, 0, 1},
    {"setp.lt.and.s32 p|q, ra, rb, s;", 'p', 1, 2, 1, 1},
    {"setp.lt.and.s32 p|q, ra, rb, s;", 'p', 3, 2, 1, 2},
    {"setp.lt.or.s32 p|q, ra, rb, !s;", 'p', 3, 2, 1, 2},
    {"setp.lt.xor.f32 p|q, ra, rb, s;", 'p', F(1), F(2), 1, 2},
    {"setp.lt.f32 p, ra, rb;", 'p', F(1), kNaN, 0, 0},
    {"setp.ltu.f32 p, ra, rb;", 'p', F(1), kNaN, 0, 1},
    {"setp.neu.f32 p, ra, rb;", 'p', F(1), kNaN, 0, 1},
    {"setp.ne.f32 p, ra, rb;", 'p', F(1), kNaN, 0, 0},
    {"setp.nan.f64 p, la, lb;", 'p', D(1), D(2), 0, 0},
    {"setp.num.f64 p, la, lb;", 'p', D(1), D(2), 0, 1},
    {"setp.eq.ftz.f32 p, ra, rb;", 'p', 1, 0x80000002, 0, 1},
    {"setp.gt.f16 p, ha, hb;", 'p', 0x4000, 0x3c00, 0, 1},
    {"setp.gt.f16x2 p|q, ra, rb;", 'p', 0x3c004000, 0x40003c00, 0, 1},
    {"setp.gtu.bf16x2 p|q, ra, rb;", 'p', 0x7fff4000, 0x40003f80, 0, 3},
    {"setp.le.bf16 p, ha, hb;", 'p', 0x3f80, 0x4000, 0, 1},
    {"set.lt.u32.s32 rd, ra, rb;", 'r', W(-1), 1, 0, 0xffffffff},
    {"set.lt.f32.s32 rd, ra, rb;", 'r', W(-1), 1, 0, F(1)},
    {"set.gt.and.u32.f32 rd, ra, rb, s;", 'r', F(2), F(1), 1, 0xffffffff},
    {"set.eq.f16x2.f16x2 rd, ra, rb;", 'r', 0x3c004000, 0x3c003c00, 0, 0x3c000000},
    {"set.gtu.bf16.bf16 hd, ha, hb;", 'h', 0x7fff, 0x3f80, 0, 0x3f80},
    {"set.ne.u16.f16 hd, ha, hb;", 'h', 0x3c00, 0x4000, 0, 0xffff},
    {"set.le.u32.bf16x2 rd, ra, rb;", 'r', 0x3f804000, 0x3f803f80, 0, 0xffff0000},
    {"selp.b32 rd, ra, rb, s;", 'r', 1, 2, 1, 1},
    {"selp.f64 ld, la, lb, s;", 'l', 1, 2, 0, 2},
    {"selp.b16 hd, ha, hb, s;", 'h', 1, 2, 0, 2},
    {"slct.u32.s32 rd, ra, rb, rc;", 'r', 1, 2, W(-1), 2},
    {"slct.ftz.u64.f32 ld, la, lb, rc;", 'l', 1, 2, 0x80000001, 1},
    {"setp.ne.b32 q, ra, 0; and.pred p, s, q;", 'p', 5, 0, 1, 3},
    {"not.pred p, s;", 'p', 5, 0, 0, 1},
    {"xor.pred p, s, !s;", 'p', 5, 0, 0, 1},
    {"shfl.sync.bfly.b32 rd|p, ra, 0, 31, -1;", 'r', 5, 0, 0, 5},
    {"shfl.sync.up.b32 rd|p, ra, 1, 0, -1;", 'p', 5, 0, 0, 0},
    {"vote.sync.ballot.b32 rd, s, -1;", 'r', 5, 0, 1, 1},
    {"vote.sync.any.pred p, s, -1;", 'p', 5, 0, 1, 1},
    {"match.any.sync.b32 rd, ra, -1;", 'r', 5, 0, 1, 1},
    {"match.all.sync.b64 rd|p, la, -1;", 'r', 5, 0, 1, 1},
    {"redux.sync.add.s32 rd, ra, -1;", 'r', 5, 0, 1, 5},
    {"redux.sync.xor.b32 rd, ra, -1;", 'r', 5, 0, 1, 5},
    {"mov.u64 ld, %gridid;", 'l', 0, 0, 0, 1},
    {"mov.u32 rd, %gridid;", 'r', 0, 0, 0, 1},
    {"mov.u64 ld, %current_graph_exec;", 'l', 0, 0, 0, 0},
    {"mov.u32 rd, %envreg1;", 'r', 0, 0, 0, 0},
    {"mov.u32 rd, %aggr_smem_size;", 'r', 0, 0, 0, 1024},
    {"mov.u32 ra, %reserved_smem_offset_begin; mov.u32 rd, %reserved_smem_offset_cap; sub.u32 rd, rd, ra;", 'r', 0, 0,
     0, 1024},
    {"mov.u64 la, %globaltimer; mov.u32 rb, %globaltimer_hi; shr.u64 la, la, 32; cvt.u32.u64 ra, la; sub.u32 rb, rb, "
     "ra; setp.le.u32 p, rb, 1;",
     'p', 0, 0, 0, 1},
    {"activemask.b32 rd;", 'r', 5, 0, 1, 1},
    {"elect.sync rd|p, -1;", 'r', 5, 0, 1, 0},
    {"elect.sync _|p, 1;", 'p', 5, 0, 1, 1},
    {"atom.global.add.u32 rd, [mem], rb; ld.global.u64 ld, [mem];", 'l', 0x100000005, 3, 0, 0x100000008},
    {"atom.global.add.u32 rd, [mem], rb;", 'r', 5, 3, 0, 5},
    {"atom.add.f32 rd, [mem], rb; ld.global.u32 rd, [mem];", 'r', F(1), F(2), 0, F(3)},
    {"red.relaxed.gpu.global.add.f32 [mem], rb; ld.global.u32 rd, [mem];", 'r', F(1), F(2), 0, F(3)},
    {"red.global.add.f64 [mem], lb; ld.global.u64 ld, [mem];", 'l', D(1), D(2), 0, D(3)},
    {"atom.global.inc.u32 rd, [mem], rb; ld.global.u32 rd, [mem];", 'r', 5, 5, 0, 0},
    {"atom.global.dec.u32 rd, [mem], rb; ld.global.u32 rd, [mem];", 'r', 0, 7, 0, 7},
    {"atom.global.max.s32 rd, [mem], rb; ld.global.u32 rd, [mem];", 'r', W(-5), 7, 0, 7},
    {"atom.global.min.u64 ld, [mem], lb; ld.global.u64 ld, [mem];", 'l', 9, 7, 0, 7},
    {"atom.global.cas.b32 rd, [mem], rb, rc; ld.global.u32 rd, [mem];", 'r', 9, 9, 4, 4},
    {"atom.global.acq_rel.cta.cas.b64 ld, [mem], lb, lc;", 'l', 9, 8, 4, 9},
    {"atom.global.cas.b16 hd, [mem], hb, hc; ld.global.u16 hd, [mem];", 'h', 9, 9, 4, 4},
    {"atom.exch.b64 ld, [mem], lb; ld.global.u64 ld, [mem];", 'l', 9, 8, 4, 8},
    {"{ .reg .b128 x; mov.b128 x, {lb, lc}; atom.global.exch.b128 x, [mem], x; mov.b128 {ld, lc}, x; ld.global.u64 la, "
     "[mem+8]; add.u64 ld, ld, la; }",
     'l', 9, 8, 4, 13},
    {"atom.and.b32 rd, [mem], rb; ld.global.u32 rd, [mem];", 'r', 9, 8, 4, 8},
    {"red.or.b64 [mem], lb; ld.global.u64 ld, [mem];", 'l', 9, 6, 4, 15},
    {"atom.global.add.noftz.f16x2 rd, [mem], rb; ld.global.u32 rd, [mem];", 'r', 0x3c003c00, 0x3c004000, 0, 0x40004200},
    {"red.global.add.noftz.bf16 [mem], hb; ld.global.u16 hd, [mem];", 'h', 0x3f80, 0x3f80, 0, 0x4000},
    {"red.global.add.noftz.bf16x2 [mem], rb; ld.global.u32 rd, [mem];", 'r', 0x3f803f80, 0x3f804000, 0, 0x40004040},
    {"red.global.v2.f32.add [mem], {rb, rc}; ld.global.u32 rd, [mem+4];", 'r', F(1) << 32 | F(2), F(1), F(4), F(5)},
    {"red.global.add.v2.f32 [mem], {rb, rc}; ld.global.u32 rd, [mem];", 'r', F(1) << 32 | F(2), F(1), F(4), F(3)},
    {"atom.global.v2.f16x2.add.noftz {ra, rd}, [mem], {rb, rc};", 'r', 0x3c003c0044004400, 0, 0, 0x3c003c00},
    {"red.global.add.L2::cache_hint.u32 [mem], rb, lc; ld.global.u32 rd, [mem];", 'r', 1, 2, 4, 3},
    {"{ .shared .align 16 .b8 m[16]; .reg .b32 x; mov.u32 x, m; st.shared.u32 [m], ra; atom.shared::cta.add.u32 rd, "
     "[x], rb; ld.shared.u32 rd, [m]; }",
     'r', 1, 2, 4, 3},
    {"{ .shared .align 16 .b8 m[16]; .reg .b64 x; mov.u64 x, m; cvta.shared.u64 x, x; st.shared.u32 [m], ra; "
     "red.add.u32 [x], rb; ld.shared.u32 rd, [m]; }",
     'r', 1, 2, 4, 3},
    {"lop3.and.b32 rd|p, ra, rb, rc, 0x80, s;", 'p', 7, 6, 5, 1},
    {"lop3.or.b32 _|p, ra, rb, rc, 0x80, s;", 'p', 8, 6, 5, 1},
    {"setp.eq.ftz.f16x2 p|q, ra, rb;", 'p', 0x00013c00, 0x80024000, 0, 2},
    {"setp.gt.and.f16x2 p|q, ra, rb, s;", 'p', 0x40004000, 0x3c003c00, 1, 3},
    {"cvt.rzi.u32.f32 rd, ra;", 'r', F(5e9f), 0, 0, 0xffffffff},
    {"cvt.rzi.s32.f32 rd, ra;", 'r', 0xff800000, 0, 0, 0x80000000},
    {"setp.equ.f32 p, ra, rb;", 'p', F(1), F(1), 0, 1},
    {"setp.equ.f32 p, ra, rb;", 'p', F(1), F(2), 0, 0},
    {"setp.geu.f32 p, ra, rb;", 'p', F(1), kNaN, 0, 1},
    {"setp.leu.f64 p, la, lb;", 'p', D(2), D(1), 0, 0},
    {"setp.gtu.f32 p, ra, rb;", 'p', F(2), F(1), 0, 1},
};

std::string kernel(const Form& form, int number) {
  const std::string n = std::to_string(number);
  std::string store;
  switch (form.result) {
    case 'h':
      store = "cvt.u64.u16 ld0, hd;\n";
      break;
    case 'r':
      store = "cvt.u64.u32 ld0, rd;\n";
      break;
    case 'l':
      store = "mov.b64 ld0, ld;\n";
      break;
    default:
      store = "selp.b32 rd, 1, 0, p; selp.b32 ra, 2, 0, q; or.b32 rd, rd, ra; cvt.u64.u32 ld0, rd;\n";
      break;
  }
  return ".visible .entry k" + n +
         "(.param .u64 in) {\n.reg .b64 base, mem, ld, ld0, la, lb, lc; .reg .b32 rd, ra, rb, rc, t; .reg .b16 hd, ha, "
         "hb, hc;\n"
         ".reg .pred p, q, s;\nld.param.u64 base, [in];\n"
         "ld.global.u64 la, [base];\nld.global.u64 lb, [base+8];\nld.global.u64 lc, [base+16];\n"
         "cvt.u32.u64 ra, la; cvt.u32.u64 rb, lb; cvt.u32.u64 rc, lc; cvt.u16.u64 ha, la; cvt.u16.u64 hb, lb; "
         "cvt.u16.u64 hc, lc;\n"
         "and.b32 t, rc, 1; setp.ne.u32 s, t, 0;\n add.u64 mem, base, 32; st.global.u64 [mem], la; st.global.u64 "
         "[mem+8], la;"
         "mov.u32 rd, 0xdeadbeef; mov.b64 ld, 0xdeadbeefdeadbeef; mov.u16 hd, 0xdead; setp.ne.u32 p, t, t; setp.ne.u32 "
         "q, t, t;\n" +
         std::string(form.text) + "\n" + store + "st.global.u64 [base+24], ld0;\nret;\n}\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::string text = ".version 8.7\n.target sm_90a\n.address_size 64\n";
  int number = 0;
  for (const Form& form : kForms) text += kernel(form, number++);
  if (argc > 1) {
    FILE* f = fopen(argv[1], "w");
    fputs(text.c_str(), f);
    fclose(f);
  }
  auto module = load(text);
  int failures = 0;
  number = 0;
  for (const Form& form : kForms) {
    alignas(16) uint64_t data[8] = {form.a, form.b, form.c, 0, 0, 0, 0, 0};
    Memory memory;
    memory.add(data, sizeof(data), true);
    Launch launch;
    launch.kernel = &module->function(*module->text->find("k" + std::to_string(number++)));
    launch.block.x = 1;
    launch.parameters.resize(8);
    const void* pointer = data;
    std::memcpy(launch.parameters.data(), &pointer, 8);
    const auto report = run(launch, memory);
    if (report) {
      ++failures;
      printf("%s\n   %s\n", form.text, report->text.c_str());
    } else if (data[3] != form.expected) {
      ++failures;
      printf("%s  a %llx b %llx c %llx: %llx, not %llx\n", form.text, (unsigned long long)form.a,
             (unsigned long long)form.b, (unsigned long long)form.c, (unsigned long long)data[3],
             (unsigned long long)form.expected);
    }
  }
  printf("%d forms, %d failures\n", number, failures);
  return failures != 0;
}
