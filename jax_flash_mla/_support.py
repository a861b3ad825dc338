"""What runs where, and why not: the one table.

``LIMITS`` says which shapes and dtypes a kernel takes; ``WRITTEN`` for which GPU
architectures there is one, and ``KERNELS`` which of those this build has;
``ARCHITECTURE_LIMITS`` what one of them takes less of, and ``GRADIENTS`` where kernels
compute gradients, too. Everything else runs in pure JAX. ``SIZES`` are those that kernels
are compiled with, ``WORKSPACES`` the scratch that follows from them.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_flash_mla import _extension
from jax_flash_mla import _validation as check
from jax_flash_mla._kv_cache_format import KVCacheFormat

IMPLEMENTATIONS = (None, "cuda", "xla")
ARCHITECTURES = ("sm90", "sm100")

# The kernels' own sizes; the extension tells the same as ``constants``. Dimensions of a key and of a value; query rows
# of one tile; for decode, most thread blocks of a launch, and partial tiles, two at most of each thread block; for
# multi-head attention, what it knows of a sequence, and queries of a block of its backward; for append, places of a
# token in the table of slots.
SIZES = {
    "append": dict(claim_places=2),
    "dense_decode": dict(dim_qk=576, dim_v=512, tile_rows=64, max_ctas=160, partial_tiles=320),
    "mha": dict(dim_v=128, range_fields=6, backward_block_tokens=64),
    "sparse_decode": dict(dim_v=512, tile_rows=64, max_ctas=160, partial_tiles=320),
    "sparse_prefill": dict(dim_v=512, tile_rows=64),
}


def _decode_workspace(operation: str, d_v: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Partial outputs and partial lse."""
    sizes = SIZES[operation]
    tiles = (sizes["partial_tiles"], sizes["tile_rows"])
    return (
        jax.ShapeDtypeStruct((*tiles, d_v), jnp.float32),
        jax.ShapeDtypeStruct(tiles, jnp.float32),
    )


# Most bytes of rows of gradients of keys; and how many tiles of heads an H200 does at once: chunks of a multiple leave
# no multiprocessor without work, and any other chunk is right as well.
MOST_ROW_BYTES = 1 << 30
TILES_AT_ONCE = 132


def _tiles_of_heads(h_q) -> int:
    return -(-h_q // SIZES["sparse_prefill"]["tile_rows"])


def _most_rows(d_qk, dtype) -> int:
    return MOST_ROW_BYTES // (d_qk * jnp.dtype(dtype).itemsize)


def _rows_workspace(s_q, h_q, topk, d_qk, dtype) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Rows of gradients of keys, of a chunk of query tokens: of each tile of heads one for every index.

    Raises:
      NotImplementedError: a query token has more of them than there may be.
    """
    most = _most_rows(d_qk, dtype)
    if any(check.is_symbolic(size) for size in (s_q, h_q, topk)):
        return (jax.ShapeDtypeStruct((most, d_qk), dtype),)
    tiles = _tiles_of_heads(h_q)
    if tiles * topk > most:
        raise NotImplementedError(
            f"deterministic=True needs topk to be at most {most // tiles} with {h_q} heads of {d_qk} dimensions, "
            f"got {topk}."
        )
    at_once = most // max(topk, 1)
    if at_once >= TILES_AT_ONCE:
        at_once -= at_once % TILES_AT_ONCE
    rows = min(s_q, max(at_once // tiles, 1)) * tiles * topk
    return (jax.ShapeDtypeStruct((rows, d_qk), dtype),)


def _query_gradient_workspace(packs, tokens, h_q, d_qk, sequences, deterministic) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Sums of gradients of queries; and, if in one order, counters of blocks of them for half of the columns each."""
    rows = packs * tokens
    counters = (rows // SIZES["mha"]["backward_block_tokens"] + packs * (sequences + 1)) if deterministic else 0
    return (
        jax.ShapeDtypeStruct((h_q, d_qk, rows), jnp.float32),
        jax.ShapeDtypeStruct((h_q, counters, 2), jnp.int32),
    )


# Scratch of a call: more results, whose sizes follow from shapes and constants alone, so that a compiled program fits
# every device.
WORKSPACES = {
    **{name: functools.partial(_decode_workspace, name) for name in ("dense_decode", "sparse_decode")},
    "mha_backward": _query_gradient_workspace,
    "sparse_backward": _rows_workspace,  # the gradients of sparse prefill
}


class Limit(NamedTuple):
    """One condition on the arguments of a kernel.

    Attributes:
      names: the arguments it looks at; it holds where any of them is not given.
      holds: whether their values are fit.
      text: the limit, in words.
    """

    names: tuple[str, ...]
    holds: Callable[..., bool]
    text: str


def _one_of(name: str, *values) -> Limit:
    return Limit((name,), lambda value: value in values, f"one of {', '.join(map(str, values))}")


def _rows_of_a_token_fit(h_q, d_qk, topk, deterministic) -> bool:
    if not deterministic or check.is_symbolic(topk) or check.is_symbolic(h_q):
        return True
    return _tiles_of_heads(h_q) * topk <= _most_rows(d_qk, jnp.bfloat16)


# Rows of a request are counted in int32, up to the end of the last tile.
_MAX_ROWS = 2**31 - SIZES["dense_decode"]["tile_rows"]
_FP8_FORMAT = _one_of("kv_format", *(fmt.name for fmt in KVCacheFormat))

LIMITS: dict[str, tuple[Limit, ...]] = {
    "dense_decode": (
        _one_of("dtype", "bfloat16", "float16"),
        _one_of("d_qk", SIZES["dense_decode"]["dim_qk"]),
        _one_of("d_v", SIZES["dense_decode"]["dim_v"]),
        Limit(("page_size",), lambda size: size % 16 == 0, "a multiple of 16"),
        # A size that is not known yet is the kernel's to refuse.
        Limit(
            ("s_q", "h_q"),
            lambda s_q, h_q: check.is_symbolic(s_q) or s_q * h_q <= _MAX_ROWS,
            f"of a product of at most {_MAX_ROWS}",
        ),
    ),
    "sparse_decode": (
        _FP8_FORMAT,
        _one_of("dtype", "bfloat16"),
    ),
    "sparse_prefill": (
        _one_of("dtype", "bfloat16"),
        _one_of("d_qk", 576, 512),
        _one_of("d_v", SIZES["sparse_prefill"]["dim_v"]),
        Limit(
            ("h_q", "d_qk", "topk", "deterministic"),
            _rows_of_a_token_fit,
            f"such that rows of a query token fit {MOST_ROW_BYTES} bytes, or not deterministic",
        ),
    ),
    "mha": (
        _one_of("dtype", "bfloat16", "float16"),
        Limit(("d_qk", "d_v"), lambda d_qk, d_v: (d_qk, d_v) in ((192, 128), (128, 128)), "(192, 128) or (128, 128)"),
    ),
    "quantize": (_FP8_FORMAT,),
    "append": (_FP8_FORMAT,),
}
ARCHITECTURE_LIMITS: dict[tuple[str, str], tuple[Limit, ...]] = {
    ("mha", "sm100"): (_one_of("dtype", "bfloat16"),),
}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "dense_decode": ("dtype", "h_q", "h_kv", "d_qk", "d_v", "s_q", "page_size"),
    "sparse_decode": ("dtype", "h_q", "d_qk", "d_v", "s_q", "topk", "page_size", "kv_format"),
    "sparse_prefill": ("dtype", "h_q", "d_qk", "d_v", "topk", "deterministic"),
    "mha": ("dtype", "h_q", "h_kv", "d_qk", "d_v"),
    "quantize": ("dtype", "page_size", "kv_format"),
    "append": ("dtype", "page_size", "kv_format"),
}
WRITTEN: dict[str, frozenset[str]] = {operation: frozenset() for operation in LIMITS} | {
    "append": frozenset({"sm90"}),
    "dense_decode": frozenset({"sm90"}),
    "mha": frozenset({"sm90", "sm100"}),
    "quantize": frozenset({"sm90"}),
    "sparse_decode": frozenset({"sm90"}),
    "sparse_prefill": frozenset({"sm90"}),
}
# Of the operations whose gradients have kernels: on other architectures they are pure JAX.
GRADIENTS: dict[str, frozenset[str]] = {
    "mha": frozenset({"sm90"}),
    "sparse_prefill": frozenset({"sm90"}),
}
KERNELS: dict[str, frozenset[str]] = {
    operation: archs.intersection(_extension.EXTENSION.architectures if _extension.EXTENSION else ())
    for operation, archs in WRITTEN.items()
}
# What tests may ask for besides, on the CPU: the custom calls with the same operands and results, and the kernels.
HOST = "host"
EMULATED = "emulated"
# The operations that have the former: a target is called jax_flash_mla.<operation>.<version>.
HOST_OPERATIONS = frozenset(target.split(".")[1] for target in _extension.HOST_TARGETS)


def supports(operation: str, *, arch: str | None = None, **shapes_and_dtypes) -> str | None:
    """Why no CUDA kernel runs an operation, or ``None`` where one does.

    Args:
      operation: ``dense_decode``, ``sparse_decode``, ``sparse_prefill``, ``mha``,
        ``quantize`` or ``append``.
      arch: ``"sm90"`` or ``"sm100"``; by default those of this process's CUDA devices,
        or any, if it has none.
      **shapes_and_dtypes: what is known of the arguments: ``dtype`` (of queries, or of
        what is quantised), ``h_q``, ``h_kv``, ``d_qk``, ``d_v``, ``s_q``, ``topk``,
        ``deterministic`` (of sparse prefill), ``page_size``, ``kv_format`` (``"V32"``,
        ``"MODEL1"``, or ``None`` for a float cache). What is not given counts as fit.

    Returns:
      One sentence, or ``None``.

    Raises:
      ValueError: an unknown operation or architecture.
      TypeError: a keyword that the operation does not have.
    """
    check.static_choice("operation", operation, tuple(LIMITS))
    unfit = _unfit(operation, shapes_and_dtypes)
    if unfit is not None:
        return unfit
    wanted = local_architectures() if arch is None else (check.static_choice("arch", arch, ARCHITECTURES),)
    missing = [name for name in wanted if name not in KERNELS[operation]]
    if missing or not KERNELS[operation]:
        where = f" for {', '.join(missing)}" if missing else ""
        written = WRITTEN[operation].intersection(wanted or ARCHITECTURES)
        why = f": {_extension.UNAVAILABLE}" if written and _extension.UNAVAILABLE else ""
        return f"this build has no {operation} kernel{where}{why}."
    # Where no architecture is known yet, one that takes this is enough.
    unfit_on = [_unfit(operation, shapes_and_dtypes, name) for name in wanted or sorted(KERNELS[operation])]
    if all(unfit_on) or (wanted and any(unfit_on)):
        return next(filter(None, unfit_on))
    return _old_driver() if local_architectures() else None


def _unfit(operation: str, shapes_and_dtypes, arch: str | None = None) -> str | None:
    """Why no kernel takes arguments like these, on whatever device; or none of an architecture, for its own limits."""
    for name in shapes_and_dtypes:
        if name not in ARGUMENTS[operation]:
            raise TypeError(f"{name} is not an argument of {operation}, which has {', '.join(ARGUMENTS[operation])}.")
    known = {name: _plain(name, value) for name, value in shapes_and_dtypes.items()}
    limits = LIMITS[operation] if arch is None else ARCHITECTURE_LIMITS.get((operation, arch), ())
    kernel = f"the {operation} kernel{f' for {arch}' if arch else ''}"
    for limit in limits:
        if all(name in known for name in limit.names):
            values = tuple(known[name] for name in limit.names)
            if not limit.holds(*values):
                named, got = (", ".join(map(str, x)) for x in (limit.names, values))
                return f"{kernel} needs {named} to be {limit.text}, got {got}."
    return None


def which_implementation(operation: str, *, implementation: str | None = None, **shapes_and_dtypes) -> tuple[str, str]:
    """Which implementation a call takes in this process, and why.

    Args:
      operation, **shapes_and_dtypes: as in ``supports``, without ``arch``.
      implementation: what the call would pass.

    Returns:
      ``("cuda" | "xla", reason)``.

    Raises:
      NotImplementedError: ``implementation="cuda"`` where no kernel runs this.
      ValueError, TypeError: as ``supports``.
    """
    choice, reason = _choose(operation, implementation, shapes_and_dtypes)
    if choice == "auto":
        return ("cuda" if local_architectures() else "xla"), reason
    return choice, reason


def resolve(operation: str, implementation: str | None, **shapes_and_dtypes) -> str:
    """What a call is to do; warns once where a GPU is left to XLA.

    Returns:
      ``"cuda"``, ``"xla"``, or ``"auto"``: the kernel on CUDA devices and XLA elsewhere.
    """
    choice, reason = _choose(operation, implementation, shapes_and_dtypes)
    if choice == "xla" and implementation is None and local_architectures():
        _warn_once(operation, reason)
    return choice


def _choose(operation, implementation, shapes_and_dtypes) -> tuple[str, str]:
    """What ``resolve`` returns, and why."""
    if operation in HOST_OPERATIONS and isinstance(implementation, str) and implementation == HOST:
        return HOST, "the custom call on the CPU was asked for."
    if _extension.EMULATOR and isinstance(implementation, str) and implementation == EMULATED:
        unfit = _unfit(operation, shapes_and_dtypes)
        if unfit is not None or not WRITTEN[operation]:
            raise NotImplementedError(
                f'implementation="{EMULATED}" was asked for, but {unfit or "there is no kernel."}'
            )
        return EMULATED, "the kernel in the emulator was asked for."
    check.static_choice("implementation", implementation, IMPLEMENTATIONS)
    reason = supports(operation, **shapes_and_dtypes)
    if implementation == "xla":
        return "xla", 'implementation="xla" was asked for.'
    if implementation == "cuda":
        if reason is not None:
            raise NotImplementedError(f'implementation="cuda" was asked for, but {reason}')
        return "cuda", _what_runs(operation)
    if reason is not None:
        return "xla", reason
    if local_architectures():
        return "auto", _what_runs(operation)
    return "auto", "this process has no CUDA device; compiled for one, a kernel runs this."


def of_gradients(operation: str, implementation: str) -> str:
    """What computes the gradients of a call that ``resolve`` has decided on."""
    return "xla" if implementation in ("cuda", "auto") and _lacks_gradients(operation) else implementation


def _what_runs(operation: str) -> str:
    return f"a kernel runs this{', and XLA its gradients' if _lacks_gradients(operation) else ''}."


def _lacks_gradients(operation: str) -> bool:
    """Whether kernels compute gradients of it elsewhere, but not on this process's CUDA devices."""
    return operation in GRADIENTS and not GRADIENTS[operation].issuperset(local_architectures())


@functools.cache
def _old_driver() -> str | None:
    """Why the installed driver does not run the kernels, or None."""
    # Drivers run what was built with any minor version of their major version.
    needed, has = _extension.EXTENSION.cuda_version // 1000, _extension.EXTENSION.driver_version() // 1000
    if has >= needed:
        return None
    return f"the kernels need a driver for CUDA {needed}, and the installed one is for CUDA {has}."


@functools.cache
def _warn_once(operation: str, reason: str) -> None:
    # The line to blame is the first one outside this package.
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("jax_flash_mla"):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"jax_flash_mla runs {operation} in XLA: {reason}", stacklevel=level)


@functools.cache
def local_architectures() -> tuple[str, ...]:
    """Architectures of this process's CUDA devices, e.g. ``("sm90",)``; empty without any.

    Kernels for sm100 are built for its family: every compute capability of major version 10.
    """
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return ()
    capabilities = {device.compute_capability for device in devices}
    return tuple(sorted("sm100" if c.startswith("10.") else f"sm{c.replace('.', '')}" for c in capabilities))


def _plain(name: str, value):
    """A dtype or a cache format by its name; a size as it is."""
    if name == "dtype":
        try:
            return jnp.dtype(value).name
        except TypeError as error:
            raise TypeError(f"dtype must be a dtype or its name, got {value!r}.") from error
    if name == "kv_format":
        return getattr(value, "name", value)
    if name == "deterministic":
        return check.static_bool(name, value)
    return value if jax.export.is_symbolic_dim(value) else check.static_int(name, value, 0)
