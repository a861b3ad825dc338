"""How fast a training step is, and of what the device could do."""

from __future__ import annotations

import dataclasses
import time

import jax
from rich.progress import Progress
from rich.table import Table

from jax_flash_mla.examples.deepseek import data
from jax_flash_mla.examples.deepseek.config import ATTENTIONS, ModelConfig, TrainConfig
from jax_flash_mla.examples.deepseek.optimizer import initial_state, make_step
from jax_flash_mla.examples.deepseek.parallel import make_mesh, place

# Dense bfloat16 FLOP/s of a device, by what its kind contains; of the makers' data sheets.
PEAKS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "B300": 2250e12}

# Slow steps are timed no longer than that, but some are.
ENOUGH_SECONDS, LEAST_STEPS = 30, 3


def flop_per_token(model: ModelConfig, length: int) -> float:
    """Floating-point operations of a training step, for each token; what is computed again does not count.

    Three times those of a forward pass: two for each weight that multiplies, and attention's,
    where a causal query sees half of the tokens on average. The indexer's are left out.
    """
    attention = (
        model.d_model * (model.q_rank + model.kv_rank + model.rope_dim)
        + model.heads * model.q_rank * model.qk_dim
        + model.heads * model.kv_rank * (model.nope_dim + model.v_dim)
        + model.heads * model.v_dim * model.d_model
    )
    weights = model.layers * (attention + 3 * model.d_model * model.d_ffn) + model.d_model * model.vocabulary
    if model.indexer is None:
        seen, dims = length / 2, model.qk_dim + model.v_dim
    else:
        seen, dims = min(model.indexer.topk, length / 2), 2 * model.kv_rank + model.rope_dim
    return 3 * 2 * (weights + model.layers * model.heads * dims * seen)


def utilisation(config: TrainConfig, tokens_per_second: float) -> float | None:
    """Model FLOP utilisation of all devices of the mesh; None where their peak is not known."""
    kind = jax.devices()[0].device_kind
    peak = next((peak for name, peak in PEAKS.items() if name in kind), None)
    if peak is None:
        return None
    devices = config.mesh[0] * config.mesh[1] * config.mesh[2]
    return tokens_per_second * flop_per_token(config.model, config.length) / (peak * devices)


def percent(share: float | None) -> str:
    """A share in words."""
    return "unknown here" if share is None else f"{100 * share:.1f} %"


def compare(config: TrainConfig, attentions: list[str], steps: int, console) -> Table:
    """Times training steps with each way to compute attention; one that cannot run says why."""
    if unknown := set(attentions) - set(ATTENTIONS):
        raise ValueError(f"attention must be of {', '.join(ATTENTIONS)}, got {', '.join(sorted(unknown))}.")
    table = Table(title=f"training on {jax.devices()[0].device_kind}: median of at most {steps} steps")
    for heading in ("attention", "tokens/s", "MFU", "why not"):
        table.add_column(heading)
    with Progress(console=console) as progress:
        task = progress.add_task("timing", total=len(attentions) * steps)
        for attention in attentions:
            progress.update(task, description=attention)
            chosen = dataclasses.replace(config, model=dataclasses.replace(config.model, attention=attention))
            try:
                rate = _tokens_per_second(chosen, steps, lambda n=1: progress.advance(task, n))
            # Whatever hinders one must not cost the others.
            except Exception as error:
                table.add_row(attention, "-", "-", str(error).splitlines()[0])
            else:
                table.add_row(attention, f"{rate:,.0f}", percent(utilisation(chosen, rate)), "")
    return table


def _tokens_per_second(config: TrainConfig, steps: int, advance) -> float:
    text = data.standard_library()
    mesh = make_mesh(config.mesh)
    state, step = initial_state(config, mesh), make_step(config, mesh)
    times = []
    for i in range(steps + 1):  # the first compiles
        pieces = data.batch(text.train, config.batch, config.length, config.seed, i)
        pieces = pieces.reshape(config.accumulate, -1, config.length + 1)
        inputs, targets = place(pieces[..., :-1], mesh), place(pieces[..., 1:], mesh)
        start = time.perf_counter()
        state, metrics = step(state, inputs, targets)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
        if i:
            advance()
        if i >= LEAST_STEPS and sum(times[1:]) > ENOUGH_SECONDS:
            advance(steps - i)
            break
    return config.batch * config.length / sorted(times[1:])[len(times[1:]) // 2]
