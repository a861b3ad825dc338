"""The loss, its gradient over the mesh, and one training step."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jax_flash_mla.examples.deepseek import model
from jax_flash_mla.examples.deepseek.config import TrainConfig
from jax_flash_mla.examples.deepseek.parallel import TOKEN_AXES, axes_of, shardings_of, specs_of


class State(NamedTuple):
    """All that a step changes; ``step`` counts those done."""

    step: jax.Array
    weights: dict
    optimizer: optax.OptState


class Metrics(NamedTuple):
    """Means over the tokens of a step, in nats."""

    loss: jax.Array
    index_loss: jax.Array


def optimizer_of(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with a warm-up and a cosine, and clipped gradients."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(config.warm_up, config.steps // 2), config.steps, 0.1 * config.learning_rate
    )

    def decays(weights):
        return jax.tree.map(lambda x: x.ndim > 1, weights)

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, b2=0.95, weight_decay=config.weight_decay, mask=decays),
    )


def initial_state(config: TrainConfig, mesh: Mesh) -> State:
    """Random weights on the mesh; the same whatever the mesh."""

    def init():
        weights = model.init(jax.random.key(config.seed), config.model)
        return State(jnp.int32(0), weights, optimizer_of(config).init(weights))

    shardings = shardings_of(jax.eval_shape(init), mesh)
    return jax.jit(init, out_shardings=shardings)()


def cross_entropy(logits, targets):
    """Nats, summed over tokens."""
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, targets))


def make_step(config: TrainConfig, mesh: Mesh):
    """``step(state, inputs, targets) -> (state, metrics)``; tokens are [accumulate, sequences, length].

    The gradient is taken inside ``shard_map``, each device on its own tokens, and added up over
    parts first and over devices once at the end. The optimizer works on whole arrays.
    """
    tokens = config.batch * config.length
    indexer = config.model.indexer

    def loss(weights, inputs, targets, dense_stage):
        cast = model.cast(weights, config.model)
        logits, _, index_loss = model.forward(
            cast, inputs, config.model, axes_of(mesh), dense_stage=dense_stage, remat=config.remat
        )
        nats = cross_entropy(logits, targets)
        return (nats + index_loss) / tokens, Metrics(nats / tokens, index_loss / tokens)

    def gradients(weights, inputs, targets, *, dense_stage):
        # Typed as differing from device to device, so that JAX does not add up the gradient of each part.
        weights = jax.tree.map(lambda x: jax.lax.pcast(x, TOKEN_AXES, to="varying"), weights)

        def add_part(sums, part):
            gradient, metrics = jax.grad(loss, has_aux=True)(weights, *part, dense_stage)
            return jax.tree.map(jnp.add, sums, (gradient, metrics)), None

        zero = jax.lax.pcast(jnp.float32(0), TOKEN_AXES, to="varying")
        sums = (jax.tree.map(jnp.zeros_like, weights), Metrics(zero, zero))
        sums, _ = jax.lax.scan(add_part, sums, (inputs, targets))
        return jax.lax.psum(sums, TOKEN_AXES)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, inputs, targets):
        specs = specs_of(state.weights)

        def on_mesh(dense_stage):
            return jax.shard_map(
                functools.partial(gradients, dense_stage=dense_stage),
                mesh=mesh,
                in_specs=(specs, P(None, *TOKEN_AXES), P(None, *TOKEN_AXES)),
                out_specs=(specs, P()),
            )

        if indexer is None or not indexer.warm_up:
            gradient, metrics = on_mesh(False)(state.weights, inputs, targets)
        else:
            gradient, metrics = jax.lax.cond(
                state.step < indexer.warm_up, on_mesh(True), on_mesh(False), state.weights, inputs, targets
            )
        updates, optimizer = optimizer_of(config).update(gradient, state.optimizer, state.weights)
        new = State(state.step + 1, optax.apply_updates(state.weights, updates), optimizer)
        return jax.lax.with_sharding_constraint(new, shardings_of(new, mesh)), metrics

    return step


def make_evaluation(config: TrainConfig, mesh: Mesh):
    """``evaluate(weights, inputs, targets) -> nats a token``; attention is sparse where it will be so in use."""

    def nats(weights, inputs, targets):
        logits, _, _ = model.forward(model.cast(weights, config.model), inputs[0], config.model, axes_of(mesh))
        return jax.lax.psum(cross_entropy(logits, targets[0]), TOKEN_AXES)

    @jax.jit
    def evaluate(weights, inputs, targets):
        on_mesh = jax.shard_map(
            nats, mesh=mesh, in_specs=(specs_of(weights), *(P(None, *TOKEN_AXES),) * 2), out_specs=P()
        )
        return on_mesh(weights, inputs, targets) / targets.size

    return evaluate
