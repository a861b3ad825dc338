"""One decode step: the model's first layers guess some tokens, the whole model checks them at once.

A guess x, drawn from the draft's distribution q, is kept with probability min(1, p(x) / q(x)), where
p is the whole model's. The first that is not kept is drawn anew from what p has above q, and those
after it are dropped; where all are kept, one more is drawn from p. What comes out is distributed as
if the whole model had drawn token by token. Greedy choice is the case in which p and q are certain.

Random numbers depend on a request's seed and on the place of the token alone: who else is in the
batch makes no difference.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_flash_mla.examples.deepseek import cache as paged
from jax_flash_mla.examples.deepseek.config import ModelConfig, ServeConfig

# What a random number at a place is for.
DRAFT, KEEP, FINAL = range(3)


def probabilities(logits, temperature):
    """Of the next token: float32 [..., vocabulary]; certain where the temperature [...] is zero."""
    greedy = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1])
    warm = jax.nn.softmax(logits / jnp.maximum(temperature, 1e-6)[..., None])
    return jnp.where(temperature[..., None] > 0, warm, greedy)


def _key(seed, place, purpose: int):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), place), purpose)


def draw(seeds, places, purpose: int, p):
    """A token for each request, from p [requests, vocabulary]."""

    def one(seed, place, p):
        return jax.random.categorical(_key(seed, place, purpose), jnp.log(p))

    return jax.vmap(one)(seeds, places, p).astype(jnp.int32)


def step(
    weights: dict,
    caches: list,
    last,
    lengths,
    table,
    active,
    temperature,
    seeds,
    model: ModelConfig,
    serve: ServeConfig,
):
    """Between one and ``draft_tokens + 1`` new tokens of each request.

    Args:
      last: int32 [requests]; each request's newest token, which is not in the cache yet.
      lengths: int32 [requests]; tokens in the cache.
      table, active: as in ``cache.decode``.
      temperature: float32 [requests]; seeds: uint32 [requests].

    Returns:
      Tokens [requests, draft_tokens + 1], how many of them count [requests], and the cache, which
      holds ``last`` and those that count but the newest.
    """
    guesses, drafts = [last], []
    for i in range(serve.draft_tokens):
        logits, caches = paged.decode(
            weights, caches, guesses[-1][:, None], lengths + i, table, active, model, serve, serve.draft_layers
        )
        drafts.append(probabilities(logits[:, 0], temperature))
        guesses.append(draw(seeds, lengths + i + 1, DRAFT, drafts[-1]))
    # Rewrites what the drafts wrote, the same numbers, and adds the other layers'.
    logits, caches = paged.decode(weights, caches, jnp.stack(guesses, 1), lengths, table, active, model, serve)
    p = probabilities(logits, temperature[:, None])
    return *check_guesses(guesses[1:], drafts, p, seeds, lengths + 1), caches


def check_guesses(guesses: list, drafts: list, p, seeds, places):
    """What comes of guesses.

    Args:
      guesses: tokens, int32 [requests] each; drafts: what each was drawn from, [requests, vocabulary].
      p: [requests, guesses + 1, vocabulary]; the whole model's, for the place of each guess and the one after.
      seeds, places: [requests]; places are those of the first guess.

    Returns:
      Tokens int32 [requests, guesses + 1], and how many of them count: int32 [requests].
    """
    kept = jnp.zeros_like(places)
    for i, (guess, q) in enumerate(zip(guesses, drafts, strict=True)):
        ratio = jnp.take_along_axis(p[:, i], guess[:, None], 1) / jnp.take_along_axis(q, guess[:, None], 1)
        chance = jax.vmap(lambda seed, place: jax.random.uniform(_key(seed, place, KEEP), dtype=jnp.float32))(
            seeds, places + i
        )
        kept += (kept == i) & (chance < ratio[:, 0])
    at = kept[:, None, None]
    final = jnp.take_along_axis(p, at, 1)[:, 0]
    if drafts:
        # Past the last guess nothing was refused, and nothing is taken off.
        q = jnp.stack([*drafts, jnp.zeros_like(drafts[0])], 1)
        final = jnp.maximum(final - jnp.take_along_axis(q, at, 1)[:, 0], 0.0)
    newest = draw(seeds, places + kept, FINAL, final)
    tokens = jnp.stack([*guesses, newest], 1)
    order = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    return jnp.where(order == kept[:, None], newest[:, None], tokens), kept + 1
