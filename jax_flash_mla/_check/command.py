"""``python -m jax_flash_mla check``: every operation, once, at the sizes of real models."""

from __future__ import annotations

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import jax_flash_mla as fm
from jax_flash_mla._check import operations
from jax_flash_mla._check.operations import MODEL1, V32, Operation
from jax_flash_mla._check.tolerance import ARITHMETIC, KERNEL_ARITHMETIC, STORED_OUT_ARITHMETIC, error_ratio

BF16 = jnp.bfloat16
REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
      operation: what to call.
      family: its name in the support table.
      facts: what the support table wants to know of it.
    """

    operation: Operation
    family: str | None = None
    facts: dict = dataclasses.field(default_factory=dict)


def checks() -> list[Check]:
    """All operations, with the dimensions of DeepSeek-V3."""
    mla = dict(dtype=BF16, d_qk=576, d_v=512)
    return [
        Check(
            operations.dense_decode(
                "dense decode", h_q=16, h_kv=1, causal=True, b=3, d=576, d_v=512, page_size=64, columns=4
            ),
            "dense_decode",
            mla | dict(h_q=16, h_kv=1, page_size=64),
        ),
        *(
            Check(
                operations.sparse_decode(
                    f"sparse decode, {fmt.name}", fmt, h_q=16, topk=64, extra_topk=64, page_size=64
                ),
                "sparse_decode",
                dict(dtype=BF16, kv_format=fmt, h_q=16, topk=64, page_size=64),
            )
            for fmt in (V32, MODEL1)
        ),
        Check(
            operations.sparse_prefill("sparse prefill", 2, s_q=16, s_kv=300, h_q=16, d=576, d_v=512, topk=128),
            "sparse_prefill",
            mla | dict(h_q=16, topk=128),
        ),
        Check(
            operations.mha_batched("MHA, batched", n_q=4, n_kv=2, causal=True, t=130, s=150, d=192, e=128),
            "mha",
            dict(dtype=BF16, d_qk=192, d_v=128),
        ),
        Check(
            operations.mha_varlen("MHA, packed", n_q=4, n_kv=4, causal=True, total_q=200, total_kv=220, d=128, e=128),
            "mha",
            dict(dtype=BF16, d_qk=128, d_v=128),
        ),
        *(
            Check(make(f"{label}, {fmt.name}", fmt), family, dict(dtype=BF16, kv_format=fmt))
            for label, make, family in (
                ("quantize", operations.quantize, "quantize"),
                ("append", operations.append, "append"),
            )
            for fmt in (V32, MODEL1)
        ),
        *(Check(operations.dequantize(f"dequantize, {fmt.name}", fmt)) for fmt in (V32, MODEL1)),
        Check(operations.merge("merge states")),
    ]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a check found; errors are fractions of what is allowed."""

    name: str
    implementation: str
    reason: str
    error: float
    gradient_error: float | None
    milliseconds: float


def run_check(check: Check, implementation: str | None, seed: int) -> Outcome:
    """Compares results and gradients with the oracle, and times the call."""
    operation = check.operation
    name, reason = "xla", "pure JAX everywhere."
    if check.family is not None:
        name, reason = fm.which_implementation(check.family, implementation=implementation, **check.facts)
    rng = np.random.default_rng(seed)
    operands = operation.operands(rng, BF16, operation.optional)
    call = jax.jit(lambda kw: operation.call(implementation, **kw))
    results = call(operands)
    arithmetic = KERNEL_ARITHMETIC if name == "cuda" else ARITHMETIC
    want = operation.want(**operands)
    error = max(error_ratio(*pair, arithmetic=arithmetic) for pair in zip(results, want, strict=True))
    gradient_error = None
    if operation.gradients is not None:
        gradient_error = _gradient_error(operation, implementation, operands, results, rng)
    return Outcome(operation.name, name, reason, error, gradient_error, _milliseconds(call, operands))


def _gradient_error(operation, implementation, operands, results, rng) -> float:
    names = [name for name in operation.differentiable if name in operands]
    rest = {name: x for name, x in operands.items() if name not in names}
    cotangents = tuple(jnp.asarray(rng.standard_normal(x.shape), x.dtype) for x in results)

    @jax.jit
    def pull(arrays, rest, cotangents):
        return jax.vjp(lambda arrays: operation.call(implementation, **arrays, **rest), arrays)[1](cotangents)[0]

    got = pull({name: operands[name] for name in names}, rest, cotangents)
    want = operation.gradients(cotangents, **operands)
    return max(error_ratio(got[name], want[name], arithmetic=STORED_OUT_ARITHMETIC) for name in names)


def _milliseconds(call, operands) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(call(operands))
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main(implementation: str | None, seed: int) -> int:
    """Prints the table; 0 where every error is within what is allowed, else 1."""
    console = Console()
    outcomes, refused = [], []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        todo = checks()
        task = progress.add_task("checking", total=len(todo))
        for check in todo:
            progress.update(task, description=check.operation.name)
            try:
                outcomes.append(run_check(check, implementation, seed))
            except NotImplementedError as error:
                refused.append((check.operation.name, str(error)))
            progress.advance(task)
        progress.update(task, description="done")

    device = jax.devices()[0]
    table = Table(title=f"jax_flash_mla {fm.__version__} on {device.device_kind}, jax {jax.__version__}")
    for heading, justify in (
        ("operation", "left"),
        ("implementation", "left"),
        ("why", "left"),
        ("error / allowed", "right"),
        ("gradient", "right"),
        ("ms", "right"),
    ):
        table.add_column(heading, justify=justify)
    for o in outcomes:
        table.add_row(
            o.name, o.implementation, o.reason, _verdict(o.error), _verdict(o.gradient_error), f"{o.milliseconds:.2f}"
        )
    for name, reason in refused:
        table.add_row(name, "none", reason, "-", "-", "-")
    console.print(table)
    console.print("Errors are against a float64 oracle, as fractions of what rounding allows; times are host times.")
    errors = [e for o in outcomes for e in (o.error, o.gradient_error) if e is not None]
    return 0 if not refused and all(e <= 1 for e in errors) else 1


def _verdict(error: float | None) -> str:
    if error is None:
        return "-"
    return f"[green]{error:.2f}[/]" if error <= 1 else f"[red]{error:.2g} FAILED[/]"
