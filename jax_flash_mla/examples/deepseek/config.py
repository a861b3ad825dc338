"""Sizes and settings, as data.

The head dimensions are those that the kernels are written for, and DeepSeek-V3's; everything else
is free.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax

ATTENTIONS = ("auto", "cuda", "xla", "cudnn")
COMPUTE = ("auto", "bfloat16", "float16", "float32")


@dataclasses.dataclass(frozen=True)
class Yarn:
    """Rotary frequencies stretched for contexts longer than those trained on.

    Attributes:
      factor: how many times longer.
      original_length: the context trained on.
      fast, slow: turns within that context above which a frequency stays, below which it is stretched.
    """

    factor: float
    original_length: int
    fast: float = 32.0
    slow: float = 1.0


@dataclasses.dataclass(frozen=True)
class Indexer:
    """DeepSeek sparse attention: a small scorer chooses the tokens that attention looks at.

    Attributes:
      heads, dim: of the scorer; the first 64 dimensions are rotary.
      topk: tokens chosen for each query.
      warm_up: training steps in which attention stays dense and the scorer learns from it.
    """

    heads: int
    dim: int
    topk: int
    warm_up: int = 0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model.

    Attributes:
      q_rank, kv_rank: widths of the latent vectors that queries, and keys and values, come from.
      attention: who computes it: "auto" (a kernel where there is one), "cuda", "xla", or in training "cudnn".
      compute: the dtype of activations; "auto" is bfloat16 on a GPU, and float32 elsewhere, since most CPUs compute
        in bfloat16 more slowly. Weights are float32.
    """

    d_model: int
    layers: int
    heads: int
    q_rank: int
    d_ffn: int
    vocabulary: int = 256
    kv_rank: int = 512
    nope_dim: int = 128
    rope_dim: int = 64
    v_dim: int = 128
    rope_theta: float = 10_000.0
    yarn: Yarn | None = None
    indexer: Indexer | None = None
    attention: str = "auto"
    compute: str = "auto"
    norm_epsilon: float = 1e-6

    def __post_init__(self):
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, got {self.attention!r}.")
        if self.attention == "cudnn" and self.indexer is not None:
            raise ValueError('attention="cudnn" excludes an indexer: cuDNN has no sparse attention to compare with.')
        if self.compute not in COMPUTE:
            raise ValueError(f"compute must be one of {', '.join(COMPUTE)}, got {self.compute!r}.")

    @property
    def dtype(self) -> str:
        """The dtype of activations on this machine."""
        if self.compute != "auto":
            return self.compute
        return "bfloat16" if jax.default_backend() == "gpu" else "float32"

    @property
    def qk_dim(self) -> int:
        """Dimensions of a key in the multi-head form."""
        return self.nope_dim + self.rope_dim

    @property
    def implementation(self) -> str | None:
        """What this library's functions are told."""
        return None if self.attention == "auto" else self.attention


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
      batch: sequences of a step, over all devices and all parts of it.
      accumulate: parts that a step's gradient is added up from.
      mesh: devices along (data, tensor, context).
      remat: whether layers are computed again in the backward pass, all but attention.
      evaluate: held-out sequences.
      save_every: steps between checkpoints.
    """

    model: ModelConfig
    steps: int
    batch: int
    length: int
    accumulate: int = 1
    mesh: tuple[int, int, int] = (1, 1, 1)
    learning_rate: float = 3e-3
    warm_up: int = 50
    weight_decay: float = 0.1
    clip: float = 1.0
    remat: bool = False
    evaluate: int = 64
    save_every: int = 100
    seed: int = 0


SMOKE_MODEL = ModelConfig(d_model=128, layers=2, heads=2, q_rank=96, d_ffn=384)

PRESETS = {
    # Two CPU cores, minutes.
    "smoke": TrainConfig(SMOKE_MODEL, steps=250, batch=16, length=128, warm_up=30),
    "smoke-dsa": TrainConfig(
        dataclasses.replace(SMOKE_MODEL, indexer=Indexer(heads=2, dim=64, topk=64, warm_up=200)),
        steps=250,
        batch=16,
        length=128,
        warm_up=30,
    ),
    # About 100 million parameters, one H200.
    "h200": TrainConfig(
        ModelConfig(d_model=768, layers=12, heads=12, q_rank=512, d_ffn=2048),
        steps=2000,
        batch=32,
        length=4096,
        accumulate=2,
        learning_rate=6e-4,
        warm_up=200,
        remat=True,
        save_every=500,
    ),
}


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """A server.

    Attributes:
      requests: that run at once; others wait.
      pages, page_size: of the pool that all share; tokens of a page.
      max_length: tokens of a request, prompt and answer.
      cache: "float", of the model's dtype, or "fp8", 656 bytes a token.
      sparse: whether an indexer chooses the tokens that are attended to.
      draft_tokens, draft_layers: guesses a step, by the model's first layers, that the whole model checks at once.
      prompt_lengths: prompts are padded to the next of these, each of which is a program.
    """

    requests: int = 4
    pages: int = 64
    page_size: int = 64
    max_length: int = 512
    cache: str = "float"
    sparse: bool = False
    draft_tokens: int = 0
    draft_layers: int = 0
    prompt_lengths: tuple[int, ...] = (64, 512)

    @property
    def table_width(self) -> int:
        """Pages of the longest request; guesses may go past its end."""
        return -(-(self.max_length + self.draft_tokens) // self.page_size)

    def check(self, model: ModelConfig) -> None:
        """Refuses what does not fit together, in one sentence."""
        for name in ("requests", "pages", "page_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.cache not in ("float", "fp8"):
            raise ValueError(f'cache must be "float" or "fp8", got {self.cache!r}.')
        if self.sparse and model.indexer is None:
            raise ValueError("sparse attention needs a model with an indexer: train one with the preset smoke-dsa.")
        if self.draft_tokens < 0 or (self.draft_tokens > 0) != (0 < self.draft_layers < model.layers):
            raise ValueError(
                f"draft_tokens = {self.draft_tokens} needs draft_layers from 1 to {model.layers - 1}, and none of both "
                f"is no drafting; got draft_layers = {self.draft_layers}."
            )
        if not self.prompt_lengths or max(self.prompt_lengths) < self.max_length:
            raise ValueError(
                f"prompt_lengths must reach max_length = {self.max_length}, got {self.prompt_lengths}: "
                "a request that was put back starts again with all its tokens as prompt."
            )


def save(config: TrainConfig, path: pathlib.Path) -> None:
    """Writes a configuration as JSON."""
    path.write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n")


def load(path: pathlib.Path) -> TrainConfig:
    """Reads what ``save`` wrote."""
    fields = json.loads(path.read_text())
    model = fields.pop("model")
    yarn, indexer = model.pop("yarn"), model.pop("indexer")
    fields["mesh"] = tuple(fields["mesh"])
    return TrainConfig(
        ModelConfig(**model, yarn=yarn and Yarn(**yarn), indexer=indexer and Indexer(**indexer)), **fields
    )
