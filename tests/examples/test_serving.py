"""Serving: the same text as the un-paged model, whoever comes and goes, and nothing compiled on the way."""

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from absl.testing import parameterized
from rich.console import Console
from tiny import setUpModule, tearDownModule  # noqa: F401

from jax_flash_mla.examples.deepseek import cache as paged
from jax_flash_mla.examples.deepseek import model, serve, speculative
from jax_flash_mla.examples.deepseek.config import ServeConfig
from jax_flash_mla.examples.deepseek.engine import Engine
from jax_flash_mla.examples.deepseek.pages import PagePool

SERVE = ServeConfig(requests=2, pages=12, page_size=16, max_length=64, prompt_lengths=(64,))
DRAFTING = dataclasses.replace(SERVE, draft_tokens=2, draft_layers=1)
WEIGHTS = tiny.weights(tiny.SPARSE)


@functools.lru_cache
def engine(serve):
    """One for each configuration: compiling takes most of the time."""
    return Engine(WEIGHTS, tiny.SPARSE, serve)


def prompts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, rng.integers(3, 30)).tolist() for _ in range(count)]


@functools.lru_cache
def next_token(config):
    """The un-paged model: whole sequences, each step anew."""

    @jax.jit
    def likeliest(tokens, length):
        logits, _, _ = model.forward(WEIGHTS, tokens, config)
        return jnp.argmax(logits[0, length - 1])

    return likeliest


def unpaged(config, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        padded = np.zeros((1, SERVE.max_length), np.int32)
        padded[0, : len(tokens)] = tokens
        tokens.append(int(next_token(config)(padded, len(tokens))))
    return tokens[len(prompt) :]


def run(served, requests):
    """Steps until all are done; how many ran in each step."""
    sizes = []
    while not served.idle:
        served.step()
        sizes.append(sum(map(bool, served.running)))
    for request in requests:
        assert len(request.answer) == request.max_new_tokens
    assert served.pool.free == served.pool.size
    return sizes


class GreedyTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("dense", SERVE),
        ("dense_drafting", DRAFTING),
        ("sparse", dataclasses.replace(SERVE, sparse=True)),
        ("sparse_drafting", dataclasses.replace(DRAFTING, sparse=True)),
    )
    def test_the_unpaged_model_token_for_token(self, serve):
        served = engine(serve)
        config = paged.as_served(tiny.SPARSE, serve)
        # More than there are places for, of different lengths: they join and leave at different steps.
        requests = [served.submit(prompt, 5 + 7 * (i % 2)) for i, prompt in enumerate(prompts(5))]
        run(served, requests)
        for request in requests:
            self.assertEqual(request.answer, unpaged(config, request.prompt, request.max_new_tokens))

    @parameterized.named_parameters(("dense", False), ("sparse", True))
    def test_fp8_alone_and_together(self, sparse):
        """From an FP8 cache: what a request gets does not depend on its company."""
        served = engine(dataclasses.replace(SERVE, cache="fp8", sparse=sparse))
        together = [served.submit(prompt, 8) for prompt in prompts(4)]
        run(served, together)
        for request in together:
            alone = served.submit(request.prompt, 8)
            run(served, [alone])
            self.assertEqual(alone.answer, request.answer)


class ContinuousBatchingTest(parameterized.TestCase):
    def test_nothing_is_compiled_on_the_way(self):
        served = engine(SERVE)
        compiled = []

        def listen(name, _, **__):
            if "compile" in name:
                compiled.append(name)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            jax.jit(lambda x: x + 1)(3)
            self.assertTrue(compiled, "the listener should hear of programs")
            compiled.clear()
            requests = [served.submit(prompt, 4 + i, temperature=i % 2) for i, prompt in enumerate(prompts(6))]
            sizes = run(served, requests)
            self.assertEqual(compiled, [])
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
        self.assertIn(SERVE.requests, sizes)

    def test_out_of_pages_waits_and_loses_nothing(self):
        """Room for one long request and a bit: others are put back, and still say all they would have said."""
        served = engine(dataclasses.replace(SERVE, pages=5))
        before = served.put_back
        requests = [served.submit(prompt[:10], 50) for prompt in prompts(3)]
        run(served, requests)
        self.assertGreater(served.put_back, before)
        config = paged.as_served(tiny.SPARSE, SERVE)
        for request in requests:
            self.assertEqual(request.answer, unpaged(config, request.prompt, 50))

    def test_sampling_depends_on_the_seed_alone(self):
        served = engine(SERVE)
        (prompt, *others) = prompts(3)
        alone = served.submit(prompt, 12, temperature=1.0, seed=7)
        run(served, [alone])
        again = [served.submit(other, 9, temperature=0.5, seed=1) for other in others]
        again.append(served.submit(prompt, 12, temperature=1.0, seed=7))
        again.append(served.submit(prompt, 12, temperature=1.0, seed=8))
        run(served, again)
        self.assertEqual(again[2].answer, alone.answer)
        self.assertNotEqual(again[3].answer, alone.answer)

    def test_stream_on_a_terminal(self):
        """Answers grow in place, and stay when all is said."""
        served = engine(SERVE)
        requests = [served.submit(list(b"one two"), 5), served.submit(list(b"three"), 4), served.submit([65], 3)]
        console = Console(file=io.StringIO(), force_terminal=True, width=80)
        serve.stream(served, requests, console)
        out = console.file.getvalue()
        for text in ("request 2 waits", "request 0 runs", "request 1 is done: 4 tokens", "three"):
            self.assertIn(text, out)
        self.assertEqual(serve.text_of(requests[0])[:7], "one two")

    def test_times_and_memory(self):
        served = engine(SERVE)
        request = served.submit([1, 2, 3], 4)
        run(served, [request])
        self.assertLess(request.submitted, request.first_token)
        self.assertLess(request.first_token, request.finished)
        self.assertEqual(served.cache_bytes, 2 * 12 * 16 * 576 * 4)

    @parameterized.named_parameters(
        ("empty", dict(prompt=[]), "prompt must have at least one token"),
        ("no_byte", dict(prompt=[256]), "all from 0 to 255"),
        ("nothing_new", dict(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        ("cold", dict(temperature=-1.0), "temperature must be zero or a positive number, got -1.0"),
        ("nan", dict(temperature=float("nan")), "temperature must be"),
        ("seed", dict(seed=-1), "seed must be from 0"),
        ("long", dict(max_new_tokens=64), "at most 64 tokens together"),
    )
    def test_refused_requests(self, wrong, message):
        with self.assertRaisesRegex(ValueError, message):
            engine(SERVE).submit(**dict(dict(prompt=[1], max_new_tokens=1), **wrong))
        self.assertTrue(engine(SERVE).idle)

    @parameterized.named_parameters(
        ("pages", dict(pages=0), "pages must be at least 1, got 0"),
        ("cache", dict(cache="int4"), 'cache must be "float" or "fp8"'),
        ("drafting", dict(draft_tokens=2, draft_layers=2), "needs draft_layers from 1 to 1"),
        ("drafting_by_none", dict(draft_layers=1), "draft_tokens = 0"),
        ("prompts", dict(prompt_lengths=(32,)), "prompt_lengths must reach max_length = 64"),
    )
    def test_refused_servers(self, wrong, message):
        with self.assertRaisesRegex(ValueError, message):
            Engine(WEIGHTS, tiny.SPARSE, dataclasses.replace(SERVE, **wrong))

    def test_refused_without_an_indexer(self):
        with self.assertRaisesRegex(ValueError, "needs a model with an indexer"):
            Engine(WEIGHTS, tiny.DENSE, dataclasses.replace(SERVE, sparse=True))

    def test_refused_where_the_pool_is_too_small(self):
        served = engine(dataclasses.replace(SERVE, pages=5))
        self.assertEqual(served.submit([1], 60).max_new_tokens, 60)
        run(served, [])
        small = object.__new__(Engine)
        small.__dict__ = dict(served.__dict__, pool=PagePool(3))
        with self.assertRaisesRegex(ValueError, "needs 4 pages, and the pool has 3"):
            small.submit([1], 60)


class SpeculativeTest(parameterized.TestCase):
    def test_drawn_as_the_whole_model_would(self):
        """Over many seeds, tokens are distributed as p says, whatever the draft."""
        count, kinds, guesses = 20_000, 4, 2
        rng = np.random.default_rng(0)
        p, q = (rng.dirichlet(np.ones(kinds), n).astype(np.float32) for n in (guesses + 1, guesses))
        seeds, places = jnp.arange(count, dtype=jnp.uint32), jnp.full(count, 9, jnp.int32)
        drafts = [jnp.broadcast_to(each, (count, kinds)) for each in q]
        drawn = [speculative.draw(seeds, places + i, speculative.DRAFT, each) for i, each in enumerate(drafts)]
        whole = jnp.broadcast_to(p, (count, *p.shape))
        tokens, counts = (np.asarray(x) for x in speculative.check_guesses(drawn, drafts, whole, seeds, places))
        self.assertEqual(set(counts), {1, 2, 3})
        for place in range(guesses + 1):
            there = tokens[counts > place, place]
            seen = np.bincount(there, minlength=kinds) / len(there)
            # Four standard deviations of a frequency.
            self.assertLess(np.abs(seen - p[place]).max(), 4 * (0.25 / len(there)) ** 0.5)
        # A guess is kept as often as the two distributions overlap.
        self.assertAlmostEqual((counts > 1).mean(), np.minimum(p[0], q[0]).sum(), delta=0.015)

    def test_guesses_are_kept(self):
        """Of a draft that is the model but for its last layer, which adds little, most are."""
        weights = jax.tree.map(lambda x: x, WEIGHTS)
        for part, name in (("attention", "out"), ("ffn", "down")):
            weights["layers"][1][part][name] = 1e-3 * weights["layers"][1][part][name]
        served = Engine(weights, tiny.SPARSE, DRAFTING)
        request = served.submit(prompts(1)[0], 31)
        run(served, [request])
        self.assertLessEqual(served.steps, 12)


class PagePoolTest(parameterized.TestCase):
    def test_taken_and_given(self):
        pool = PagePool(4)
        first = pool.take(3)
        self.assertIsNone(pool.take(2))
        self.assertEqual(pool.free, 1)
        pool.give(first[:2])
        second = pool.take(3)
        self.assertEqual(sorted([*second, first[2]]), [0, 1, 2, 3])
        with self.assertRaisesRegex(ValueError, "page 9 was given back"):
            pool.give([9])
        pool.give(second)
        with self.assertRaisesRegex(ValueError, "but nobody had taken it"):
            pool.give(second[:1])
