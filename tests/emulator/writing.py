"""Writes PTX: kernels whose body is given, with the rest around it made from their arguments."""

import re
import textwrap
import zlib
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
from devices import Argument, Input, Kernel, Output, Scalar, TensorMap

# The newest version that CUDA 12.9 and later have for SM90, hence drivers 575 and 580; and what SM100 needs.
VERSION, SM100_VERSION = "8.7", "8.8"
HEADER = ".version {version}\n.target {target}\n.address_size 64\n"

# The types of PTX with the bits of their registers and what numpy has for them in memory.
REGISTER_BITS = {
    **{"pred": 1, "u8": 16, "s8": 16, "b8": 16},
    **{kind + bits: int(bits) for kind in "usb" for bits in ("16", "32", "64")},
    **{"f16": 16, "bf16": 16, "f32": 32, "f64": 64, "f16x2": 32, "bf16x2": 32, "tf32": 32},
    **{"e4m3x2": 16, "e5m2x2": 16, "u16x2": 32, "s16x2": 32},
}
ARRAY_TYPES = {
    **{"pred": np.uint32, "u8": np.uint8, "s8": np.int8, "b8": np.uint8},
    **{"u16": np.uint16, "s16": np.int16, "b16": np.uint16, "u32": np.uint32, "s32": np.int32, "b32": np.uint32},
    **{"u64": np.uint64, "s64": np.int64, "b64": np.uint64, "f16": np.float16, "bf16": ml_dtypes.bfloat16},
    **{"f32": np.float32, "f64": np.float64, "f16x2": np.uint32, "bf16x2": np.uint32, "tf32": np.uint32},
    **{"e4m3x2": np.uint16, "e5m2x2": np.uint16, "u16x2": np.uint32, "s16x2": np.uint32},
}

# Registers that every body may use. A kernel gets those whose names it mentions.
REGISTERS = {"%h": "b16", "%r": "b32", "%d": "b64", "%f": "f32", "%g": "f64", "%p": "pred", "%q": "b128"}
REGISTER_COUNT = 160


# What the kernels that go wrong declare: a file that lines can be in, and what they share.
FAULTY = '.file 1 "faulty.cu"\n'
BARRIERS = ".shared .align 8 .b64 bar;\n.shared .align 16 .b8 box[64];\n"


def rng(name: str) -> np.random.Generator:
    """Numbers that depend on the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def parameter(name: str, argument: Argument) -> str:
    if isinstance(argument, TensorMap):
        return f".param .align 64 .b8 {name}[128]"
    if isinstance(argument, Scalar):
        return f".param .b{8 * argument.value.itemsize} {name}"
    return f".param .u64 {name}"


def prologue(arguments: Mapping[str, Argument]) -> list[str]:
    """Puts pointers and scalars into registers %NAME; of tensor maps, the generic address."""
    lines = []
    for name, argument in arguments.items():
        if isinstance(argument, Scalar):
            bits = 8 * argument.value.itemsize
            lines += [f".reg .b{bits} %{name};", f"ld.param.b{bits} %{name}, [{name}];"]
        elif isinstance(argument, TensorMap):
            lines += [f".reg .b64 %{name};", f"mov.b64 %{name}, {name};", f"cvta.param.u64 %{name}, %{name};"]
        else:
            lines += [f".reg .b64 %{name};", f"ld.param.u64 %{name}, [{name}];"]
            lines += [f"cvta.to.global.u64 %{name}, %{name};"]
    return lines


def kernel(
    arguments: Mapping[str, Argument],
    body: str | Sequence[str],
    *,
    block: tuple[int, int, int] | int = 32,
    grid: tuple[int, int, int] | int = 1,
    cluster: tuple[int, int, int] | int = 1,
    dynamic_shared: int = 0,
    shared: str = "",
    functions: str = "",
    directives: str = "",
    entry: str = "test_kernel",
    target: str = "sm_90a",
) -> Kernel:
    """A kernel around a body.

    The body finds arguments in registers of their names (`prologue`), %tid.x in %thread, and may use the registers of
    REGISTERS and the array of bytes `smem` in shared memory, which is dynamic, at a multiple of 1024 bytes. `shared` are
    declarations before the kernel.
    """
    text = body if isinstance(body, str) else "\n".join(body)
    lines = [
        f".reg .{kind} {prefix}<{REGISTER_COUNT}>;"
        for prefix, kind in REGISTERS.items()
        if re.search(prefix + r"\d", text)
    ]
    lines += [".reg .b32 %thread;", "mov.u32 %thread, %tid.x;", *prologue(arguments)]
    parameters = ",\n  ".join(parameter(name, argument) for name, argument in arguments.items())
    ptx = HEADER.format(version=VERSION if target.startswith("sm_90") else SM100_VERSION, target=target)
    if dynamic_shared:
        ptx += ".extern .shared .align 1024 .b8 smem[];\n"
    ptx += textwrap.dedent(shared) + textwrap.dedent(functions)
    ptx += f".visible .entry {entry}(\n  {parameters}\n) {directives}\n{{\n"
    ptx += textwrap.indent("\n".join(lines) + "\n" + textwrap.dedent(text).strip("\n"), "  ") + "\n  ret;\n}\n"
    three = lambda dims: (dims, 1, 1) if isinstance(dims, int) else dims
    return Kernel(ptx, entry, dict(arguments), three(grid), three(block), three(cluster), dynamic_shared)


def load(kind: str, register: str, address: str) -> list[str]:
    """From global memory; a predicate is a word that is not zero."""
    if kind == "pred":
        return [f"ld.global.u32 %word, [{address}];", f"setp.ne.u32 {register}, %word, 0;"]
    size = 8 * np.dtype(ARRAY_TYPES[kind]).itemsize
    letter = "s" if kind == "s8" else "u" if kind in ("u8", "b8") else "b"
    return [f"ld.global.{letter}{size} {register}, [{address}];"]


def store(kind: str, register: str, address: str) -> list[str]:
    if kind == "pred":
        return [f"selp.u32 %word, 1, 0, {register};", f"st.global.u32 [{address}], %word;"]
    size = 8 * np.dtype(ARRAY_TYPES[kind]).itemsize
    letter = "u" if size == 8 else "b"
    return [f"st.global.{letter}{size} [{address}], {register};"]


def elementwise(
    instructions: str,
    inputs: Mapping[str, tuple[str, np.ndarray]],
    outputs: Mapping[str, str],
    declarations: str = "",
    target: str = "sm_90a",
) -> Kernel:
    """Instructions on one element of each array, by a thread of its own.

    `inputs`: the type of PTX and the values, by the name by which the instructions call them in braces; `outputs`: types.
    """
    (count,) = {array.size for _, array in inputs.values()}
    arguments: dict[str, Argument] = {name: Input(array) for name, (_, array) in inputs.items()}
    arguments |= {name: Output((count,), ARRAY_TYPES[kind]) for name, kind in outputs.items()}
    body = [".reg .pred %outside;", ".reg .b32 %index, %cta, %word;", ".reg .b64 %place;"]
    kinds = {name: kind for name, (kind, _) in inputs.items()} | dict(outputs)
    for name, kind in kinds.items():
        bits = REGISTER_BITS[kind]
        body.append(f".reg .{'pred' if bits == 1 else f'b{bits}'} %v{name};")
    body += textwrap.dedent(declarations).splitlines()
    body += ["mov.u32 %cta, %ctaid.x;", f"mad.lo.u32 %index, %cta, {BLOCK}, %thread;"]
    body += [f"setp.ge.u32 %outside, %index, {count};", "@%outside bra END;"]

    def place(name: str, kind: str) -> str:
        size = np.dtype(ARRAY_TYPES[kind]).itemsize
        return f"mad.wide.u32 %place, %index, {size}, %{name};"

    for name, (kind, _) in inputs.items():
        body += [place(name, kind), *load(kind, f"%v{name}", "%place")]
    body += textwrap.dedent(instructions).format(**{name: f"%v{name}" for name in kinds}).splitlines()
    for name, kind in outputs.items():
        body += [place(name, kind), *store(kind, f"%v{name}", "%place")]
    body.append("END:")
    return kernel(arguments, body, block=BLOCK, grid=-(-count // BLOCK), target=target)


BLOCK = 128


def braces(text: str) -> str:
    """A text without placeholders, for `elementwise`."""
    return text.replace("{", "{{").replace("}", "}}")


def vector(prefix: str, first: int, count: int) -> str:
    """{prefix first, …}: an operand of several registers."""
    return "{" + ", ".join(f"{prefix}{first + i}" for i in range(count)) + "}"


def fill_shared(source: str, bytes_: int, threads: int, at: str = "smem") -> str:
    """Copies from global to shared memory, 16 bytes at a time; ends with a barrier."""
    return copy_lines("ld.global.v4.b32", "st.shared.v4.b32", f"%{source}", at, bytes_, threads, True)


def dump_shared(target: str, bytes_: int, threads: int, at: str = "smem") -> str:
    """Copies from shared to global memory after a barrier, 16 bytes at a time."""
    return copy_lines("ld.shared.v4.b32", "st.global.v4.b32", at, f"%{target}", bytes_, threads, False)


def copy_lines(load: str, store: str, source: str, target: str, bytes_: int, threads: int, fills: bool) -> str:
    assert bytes_ % 16 == 0
    label = f"COPY_{zlib.crc32(f'{source} {target} {bytes_} {fills}'.encode()):08x}"
    return f"""
    {{
    .reg .pred %more;
    .reg .b32 %at, %w<4>;
    .reg .b64 %from, %to, %wide;
    {"" if fills else "bar.sync 0;"}
    shl.b32 %at, %thread, 4;
    {label}:
    setp.lt.u32 %more, %at, {bytes_};
    @!%more bra {label}_END;
    cvt.u64.u32 %wide, %at;
    mov.b64 %from, {source};
    mov.b64 %to, {target};
    add.u64 %from, %from, %wide;
    add.u64 %to, %to, %wide;
    {load} {{%w0, %w1, %w2, %w3}}, [%from];
    {store} [%to], {{%w0, %w1, %w2, %w3}};
    add.u32 %at, %at, {16 * threads};
    bra {label};
    {label}_END:
    {"bar.sync 0;" if fills else ""}
    }}
    """
