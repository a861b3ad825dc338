"""Continuous batching: requests join and leave between steps, and share one pool of pages.

All programs are compiled before the first request; a compiled program refuses other shapes, so
that nothing is ever compiled again. A step is

1. waiting requests join, while a place in the batch and the pages for their prompts are free: prefill;
2. running requests get the pages that their next tokens need. Where none is free, the youngest
   request gives its pages back and waits at the head of the queue; it keeps its text, which will be
   its prompt, so that nothing is lost. The oldest one always goes on, and so all end;
3. one decode step for all that run;
4. those that are done leave.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from jax_flash_mla.examples.deepseek import cache as paged
from jax_flash_mla.examples.deepseek import model as transformer
from jax_flash_mla.examples.deepseek import speculative
from jax_flash_mla.examples.deepseek.config import ModelConfig, ServeConfig
from jax_flash_mla.examples.deepseek.pages import PagePool


@dataclasses.dataclass(eq=False)
class Request:
    """A prompt and its answer so far.

    Attributes:
      place: in the batch, while it runs.
      pages: that it owns, in order.
      joined: how many requests joined before it, which is its age.
      submitted, first_token, finished: times on one clock, in seconds.
    """

    prompt: list[int]
    max_new_tokens: int
    temperature: float
    seed: int
    answer: list[int] = dataclasses.field(default_factory=list)
    place: int | None = None
    pages: list[int] = dataclasses.field(default_factory=list)
    joined: int = 0
    submitted: float = dataclasses.field(default_factory=time.perf_counter)
    first_token: float | None = None
    finished: float | None = None

    @property
    def cached(self) -> int:
        """Tokens in the cache while it runs: all but the newest."""
        return len(self.prompt) + len(self.answer) - 1

    def take(self, tokens: list[int]) -> list[int]:
        """Adds new tokens to the answer, up to its end; returns those added."""
        tokens = tokens[: self.max_new_tokens - len(self.answer)]
        self.answer += tokens
        now = time.perf_counter()
        if self.first_token is None:
            self.first_token = now
        if len(self.answer) == self.max_new_tokens:
            self.finished = now
        return tokens


class Engine:
    """Serves a model; ``submit`` and ``step`` are all there is to it."""

    def __init__(self, weights: dict, model: ModelConfig, serve: ServeConfig):
        serve.check(model)
        self.serve = serve
        self.model = paged.as_served(model, serve)
        self._weights = jax.jit(functools.partial(transformer.cast, config=self.model))(weights)
        self._caches = paged.empty(self.model, serve)
        self.pool = PagePool(serve.pages)
        self.waiting: collections.deque[Request] = collections.deque()
        self.running: list[Request | None] = [None] * serve.requests
        self.steps = self.put_back = self._joined = 0
        self._compile()

    @property
    def cache_bytes(self) -> int:
        """Memory of all pools."""
        return sum(x.nbytes for x in jax.tree.leaves(self._caches))

    @property
    def idle(self) -> bool:
        """Whether nobody runs or waits."""
        return not self.waiting and not any(self.running)

    def submit(self, prompt: list[int], max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> Request:
        """Queues a request; temperature 0 takes the likeliest token.

        Raises:
          ValueError: a request that could never be served, in one sentence.
        """
        tokens = len(prompt) + max_new_tokens
        if not prompt or min(prompt) < 0 or max(prompt) >= self.model.vocabulary:
            raise ValueError(f"prompt must have at least one token, all from 0 to {self.model.vocabulary - 1}.")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be zero or a positive number, got {temperature}.")
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"seed must be from 0 to 2^32 - 1, got {seed}.")
        if tokens > self.serve.max_length:
            raise ValueError(
                f"prompt and max_new_tokens must have at most {self.serve.max_length} tokens together (max_length), "
                f"got {len(prompt)} and {max_new_tokens}."
            )
        if self._pages_for(tokens + self.serve.draft_tokens) > self.pool.size:
            raise ValueError(
                f"a request of {tokens} tokens needs {self._pages_for(tokens + self.serve.draft_tokens)} pages, "
                f"and the pool has {self.pool.size}: enlarge pages or shorten the request."
            )
        request = Request(list(prompt), max_new_tokens, temperature, seed)
        self.waiting.append(request)
        return request

    def step(self) -> list[tuple[Request, list[int]]]:
        """One step of all that run; returns each request that has new tokens, with these."""
        news = self._admit()
        self._grow()
        if any(self.running):
            news += self._decode()
        return news

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.serve.page_size)

    def _compile(self) -> None:
        model, serve = self.model, self.serve
        ints = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
        n, width = serve.requests, serve.table_width

        def prefill(weights, caches, tokens, length, table, temperature, seed):
            logits, caches = paged.prefill(weights, caches, tokens, length, table, model, serve)
            p = speculative.probabilities(logits[None], temperature)
            return speculative.draw(seed, length[None], speculative.FINAL, p), caches

        def one(size):
            return jax.ShapeDtypeStruct((size,), jnp.float32), jax.ShapeDtypeStruct((size,), jnp.uint32)

        first = jax.jit(prefill, donate_argnums=1)
        self._prefill = {
            length: first.lower(
                self._weights, self._caches, ints((1, length)), ints(()), ints((1, width)), *one(1)
            ).compile()
            for length in sorted(serve.prompt_lengths)
        }
        more = jax.jit(functools.partial(speculative.step, model=model, serve=serve), donate_argnums=1)
        active = jax.ShapeDtypeStruct((n,), bool)
        self._step = more.lower(
            self._weights, self._caches, ints((n,)), ints((n,)), ints((n, width)), active, *one(n)
        ).compile()

    def _admit(self) -> list[tuple[Request, list[int]]]:
        news = []
        while self.waiting and None in self.running:
            request = self.waiting[0]
            # One that was put back has its newest token still to be cached.
            tokens = request.prompt + request.answer[:-1]
            pages = self.pool.take(self._pages_for(len(tokens)))
            if pages is None:
                break
            self.waiting.popleft()
            request.pages, request.place = pages, self.running.index(None)
            request.joined, self._joined = self._joined, self._joined + 1
            self.running[request.place] = request
            token = self._run_prefill(request, tokens)
            if not request.answer:
                news.append((request, request.take([token])))
                self._leave_if_done(request)
        return news

    def _run_prefill(self, request: Request, tokens: list[int]) -> int:
        padded = next(length for length in sorted(self._prefill) if length >= len(tokens))
        batch = np.zeros((1, padded), np.int32)
        batch[0, : len(tokens)] = tokens
        token, self._caches = self._prefill[padded](
            self._weights,
            self._caches,
            batch,
            np.int32(len(tokens)),
            self._table([request]),
            np.array([request.temperature], np.float32),
            np.array([request.seed], np.uint32),
        )
        return int(token[0])

    def _grow(self) -> None:
        for request in sorted(filter(None, self.running), key=lambda request: request.joined):
            needed = self._pages_for(request.cached + self.serve.draft_tokens + 1)
            while request.place is not None and len(request.pages) < needed:
                more = self.pool.take(needed - len(request.pages))
                if more is not None:
                    request.pages += more
                else:
                    youngest = max(filter(None, self.running), key=lambda request: request.joined)
                    self._leave(youngest)
                    self.waiting.appendleft(youngest)
                    self.put_back += 1

    def _decode(self) -> list[tuple[Request, list[int]]]:
        def each(value, absent, dtype):
            return np.array([absent if request is None else value(request) for request in self.running], dtype)

        tokens, counts, self._caches = self._step(
            self._weights,
            self._caches,
            each(lambda request: request.answer[-1], 0, np.int32),
            each(lambda request: request.cached, 0, np.int32),
            self._table(self.running),
            each(lambda _: True, False, bool),
            each(lambda request: request.temperature, 0, np.float32),
            each(lambda request: request.seed, 0, np.uint32),
        )
        self.steps += 1
        tokens, counts = np.asarray(tokens), np.asarray(counts)
        news = []
        for request in filter(None, list(self.running)):
            new = tokens[request.place, : counts[request.place]].tolist()
            news.append((request, request.take(new)))
            self._leave_if_done(request)
        return news

    def _table(self, requests) -> np.ndarray:
        table = np.zeros((len(requests), self.serve.table_width), np.int32)
        for row, request in zip(table, requests, strict=True):
            if request is not None:
                row[: len(request.pages)] = request.pages
        return table

    def _leave_if_done(self, request: Request) -> None:
        if request.finished is not None:
            self._leave(request)

    def _leave(self, request: Request) -> None:
        self.pool.give(request.pages)
        self.running[request.place] = None
        request.pages, request.place = [], None
