"""Where to go on: loops, branches within branches, calls, tables of branches, exits."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import kernel, rng

from families import Family

PLACE = "mad.wide.u32 %d50, %thread, 4, %out;\n"
START = "mad.wide.u32 %d0, %thread, 4, %a;\nld.global.b32 %r0, [%d0];\n" + PLACE
N = 96


def simple(name: str, body: str, functions: str = "", outputs: int = N) -> Family:
    values = rng(name).integers(1, 2**20, N).astype(np.uint32)
    arguments = {"a": Input(values), "out": Output((outputs,), np.uint32)}
    return Family(name, kernel(arguments, START + body, functions=functions, block=N))


def loops() -> Iterator[Family]:
    yield simple(
        "collatz",
        """
        mov.u32 %r1, 0;
        STEP:
        setp.eq.u32 %p0, %r0, 1;
        @%p0 bra DONE;
        and.b32 %r2, %r0, 1;
        setp.eq.u32 %p1, %r2, 0;
        @%p1 bra EVEN;
        mad.lo.u32 %r0, %r0, 3, 1;
        bra NEXT;
        EVEN:
        shr.u32 %r0, %r0, 1;
        NEXT:
        add.u32 %r1, %r1, 1;
        bra.uni STEP;
        DONE:
        st.global.b32 [%d50], %r1;
        """,
    )
    yield simple(
        "nested",
        """
        mov.u32 %r9, 0;
        mov.u32 %r1, 0;
        OUTER:
        and.b32 %r3, %r0, 7;
        mov.u32 %r2, 0;
        INNER:
        setp.gt.u32 %p0, %r2, %r3;
        @%p0 bra LEAVE;
        add.u32 %r4, %r2, %r1;
        and.b32 %r5, %r4, 3;
        setp.eq.u32 %p1, %r5, 1;
        @%p1 bra CONTINUE;
        setp.eq.u32 %p2, %r5, 2;
        @%p2 bra TWO;
        mad.lo.u32 %r9, %r9, 5, %r0;
        setp.gt.u32 %p3, %r9, 4000000000;
        @%p3 bra OUT;
        bra CONTINUE;
        TWO:
        xor.b32 %r9, %r9, %r4;
        @!%p0 add.u32 %r9, %r9, 3;
        CONTINUE:
        add.u32 %r2, %r2, 1;
        bra INNER;
        LEAVE:
        shr.u32 %r0, %r0, 1;
        add.u32 %r1, %r1, 1;
        setp.lt.u32 %p4, %r1, 9;
        @%p4 bra OUTER;
        OUT:
        st.global.b32 [%d50], %r9;
        """,
    )


def exits() -> Iterator[Family]:
    yield simple(
        "exits",
        """
        st.global.b32 [%d50], %r0;
        and.b32 %r1, %r0, 3;
        setp.eq.u32 %p0, %r1, 0;
        @%p0 exit;
        st.global.b32 [%d50], 1;
        setp.eq.u32 %p1, %r1, 1;
        @%p1 bra AWAY;
        setp.eq.u32 %p2, %r1, 2;
        @%p2 ret;
        st.global.b32 [%d50], 2;
        AWAY:
        add.u32 %r2, %r0, 7;
        st.global.b32 [%d50], %r2;
        exit;
        """,
    )


CASES = [
    "add.u32 %r0, %r0, 11;",
    "mul.lo.u32 %r0, %r0, 3;",
    "xor.b32 %r0, %r0, 0xff;",
    "shr.u32 %r0, %r0, 2;",
    "sub.u32 %r0, 9999, %r0;",
]


def tables() -> Iterator[Family]:
    places = "\n".join(f"CASE{i}:\n{text}\nbra END;" for i, text in enumerate(CASES))
    names = ", ".join(f"CASE{i}" for i in range(len(CASES)))
    body = f"""
    mov.u32 %r2, 0;
    AGAIN:
    add.u32 %r1, %r0, %r2;
    rem.u32 %r1, %r1, {len(CASES)};
    TABLE: .branchtargets {names};
    brx.idx %r1, TABLE;
    {places}
    END:
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p0, %r2, 6;
    @%p0 bra AGAIN;
    st.global.b32 [%d50], %r0;
    """
    yield simple("brx.idx", body)


FUNCTIONS = """
.func (.param .b32 result) twice(.param .b32 x, .param .b64 offset) {
  .reg .b32 %r<9>;
  .reg .b64 %d<3>;
  .reg .pred %p;
  ld.param.b32 %r0, [x];
  ld.param.b64 %d0, [offset];
  cvt.u32.u64 %r1, %d0;
  mad.lo.u32 %r2, %r0, 2, %r1;
  st.param.b32 [result], %r2;
  setp.gt.u32 %p, %r2, 100000;
  @%p ret;
  add.u32 %r2, %r2, 1;
  st.param.b32 [result], %r2;
  ret;
}
.func (.param .align 16 .b8 pair[16]) swapped(.param .align 16 .b8 given[16]) {
  .reg .b64 %d<2>;
  ld.param.v2.b64 {%d0, %d1}, [given];
  st.param.b64 [pair], %d1;
  st.param.b64 [pair+8], %d0;
  ret;
}
.func (.reg .b32 sum) add_all(.reg .b32 one, .reg .b32 two) {
  add.u32 sum, one, two;
  ret;
}
.func store_it(.param .b64 place, .param .b32 value) {
  .reg .b64 %d;
  .reg .b32 %r;
  ld.param.b64 %d, [place];
  ld.param.b32 %r, [value];
  st.global.b32 [%d], %r;
}
.func (.param .b32 result) factorial(.param .b32 n) {
  .reg .b32 %r<4>;
  .reg .pred %p;
  ld.param.b32 %r0, [n];
  mov.u32 %r3, 1;
  setp.lt.u32 %p, %r0, 2;
  @%p bra BOTTOM;
  sub.u32 %r1, %r0, 1;
  {
    .param .b32 argument;
    .param .b32 value;
    st.param.b32 [argument], %r1;
    call.uni (value), factorial, (argument);
    ld.param.b32 %r2, [value];
  }
  mul.lo.u32 %r3, %r0, %r2;
BOTTOM:
  st.param.b32 [result], %r3;
  ret;
}
.func (.param .b32 result) local_sum(.param .b32 n) {
  .local .align 4 .b32 mine[8];
  .reg .b32 %r<6>;
  .reg .b64 %d<4>;
  .reg .pred %p;
  ld.param.b32 %r0, [n];
  mov.u32 %r1, 0;
  mov.u64 %d0, mine;
FILL:
  mad.lo.u32 %r2, %r1, %r1, %r0;
  mad.wide.u32 %d1, %r1, 4, %d0;
  st.local.b32 [%d1], %r2;
  add.u32 %r1, %r1, 1;
  setp.lt.u32 %p, %r1, 8;
  @%p bra FILL;
  and.b32 %r3, %r0, 7;
  mad.wide.u32 %d2, %r3, 4, %d0;
  ld.local.b32 %r4, [%d2];
  st.param.b32 [result], %r4;
  ret;
}
"""


def call(function: str, argument: str, result: str) -> str:
    return f"""
    {{
    .param .b32 given;
    .param .b32 value;
    st.param.b32 [given], {argument};
    call (value), {function}, (given);
    ld.param.b32 {result}, [value];
    }}
    """


def calls() -> Iterator[Family]:
    body = """
    {
    .param .b32 x;
    .param .b64 offset;
    .param .b32 value;
    st.param.b32 [x], %r0;
    st.param.b64 [offset], 12345;
    call.uni (value), twice, (x, offset);
    ld.param.b32 %r1, [value];
    }
    {
    .param .align 16 .b8 given[16];
    .param .align 16 .b8 pair[16];
    mov.b64 %d1, {%r0, %r1};
    mov.b64 %d2, {%r1, %r1};
    st.param.v2.b64 [given], {%d1, %d2};
    call (pair), swapped, (given);
    ld.param.b64 %d3, [pair+8];
    ld.param.b32 %r5, [pair];
    }
    mov.b64 {%r2, %r3}, %d3;
    mad.lo.u32 %r2, %r2, 3, %r3;
    call (%r4), add_all, (%r2, %r5);
    {
    .param .b64 place;
    .param .b32 value;
    st.param.b64 [place], %d50;
    st.param.b32 [value], %r4;
    call store_it, (place, value);
    }
    """
    yield simple("calls", body, FUNCTIONS)
    body = f"""
    and.b32 %r1, %r0, 15;
    and.b32 %r2, %r0, 1;
    setp.eq.u32 %p0, %r2, 1;
    mov.b32 %r3, 5;
    @%p0 bra ODD;
    {call("factorial", "%r1", "%r3")}
    bra MEET;
    ODD:
    {call("local_sum", "%r0", "%r3")}
    MEET:
    {call("factorial", "%r2", "%r4")}
    {call("local_sum", "%r3", "%r5")}
    add.u32 %r3, %r3, %r4;
    mad.lo.u32 %r3, %r5, 7, %r3;
    st.global.b32 [%d50], %r3;
    """
    yield simple("calls.divergent", body, FUNCTIONS)


def families() -> Iterator[Family]:
    yield from loops()
    yield from exits()
    yield from tables()
    yield from calls()
