"""What is tested: kernels for every family of instructions, with how their outputs are compared.

Each module here is a group, and has a function `families()`.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator

import numpy as np
from devices import Kernel

GROUPS = (
    *("arithmetic", "floats", "comparisons", "conversions", "conversion_flags", "approximations", "rarities"),
    *("memory", "wide_memory", "clusters", "async_stores"),
    *("tensors", "tensor_types", "tensor_forms", "copies", "bulk_copies"),
    *("wgmma", "wgmma_layouts", "wgmma_widths", "mma", "matrix_moves"),
    *("mbarriers", "mbarrier_forms", "barriers", "warps", "control", "atomics", "reductions", "machine"),
)

INTEGER_OF = {2: np.int16, 4: np.int32, 8: np.int64}


@dataclasses.dataclass(frozen=True)
class Exact:
    """The same bytes, those of NaNs included."""

    def differences(self, got: np.ndarray, want: np.ndarray) -> np.ndarray:
        return (as_bytes(got) != as_bytes(want)).any(-1)


@dataclasses.dataclass(frozen=True)
class Ulps:
    """At most so many floating-point numbers away; NaNs and infinities are in the same places."""

    count: int

    def differences(self, got: np.ndarray, want: np.ndarray) -> np.ndarray:
        def place(array: np.ndarray) -> np.ndarray:
            bits = array.view(INTEGER_OF[array.dtype.itemsize])
            code = bits.astype(np.int64)
            return np.where(code < 0, int(np.iinfo(bits.dtype).min) - code, code)

        unusual = ~np.isfinite(got.astype(np.float64)) | ~np.isfinite(want.astype(np.float64))
        near = np.abs(place(got) - place(want)) <= self.count
        both_nan = np.isnan(got.astype(np.float64)) & np.isnan(want.astype(np.float64))
        return ~np.where(unusual, both_nan | (place(got) == place(want)), near)


@dataclasses.dataclass(frozen=True)
class Within:
    """At most `bound(value of the emulator, number of the output)` away, as float64; NaNs and infinities as in Ulps."""

    bound: Callable[[np.ndarray, int], np.ndarray]
    output: int = 0

    def differences(self, got: np.ndarray, want: np.ndarray) -> np.ndarray:
        a, b = got.astype(np.float64), want.astype(np.float64)
        unusual = ~np.isfinite(a) | ~np.isfinite(b)
        with np.errstate(invalid="ignore"):
            far = ~(np.abs(a - b) <= self.bound(a, self.output))
        return np.where(unusual, ~((a == b) | (np.isnan(a) & np.isnan(b))), far)


Comparison = Exact | Ulps | Within


@dataclasses.dataclass(frozen=True)
class Family:
    """A kernel and how what it does is compared."""

    name: str
    kernel: Kernel
    comparison: Comparison = Exact()


def as_bytes(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, flat.dtype.itemsize)


@functools.cache
def group(name: str) -> dict[str, Family]:
    """The families of a group by their names."""
    all_families: Iterator[Family] = importlib.import_module(f"families.{name}").families()
    out: dict[str, Family] = {}
    for family in all_families:
        assert family.name not in out, f"{family.name} is there twice"
        out[family.name] = family
    return out
