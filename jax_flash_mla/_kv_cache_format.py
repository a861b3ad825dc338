"""The FP8 cache layouts, byte for byte those of FlashMLA."""

from __future__ import annotations

import enum


class KVCacheFormat(enum.Enum):
    """Layout of one token in a paged FP8 latent cache.

    Both hold a latent vector quantised to e4m3 with one scale per group of dimensions,
    and the rotary part of the key in bfloat16. A cache is
    ``[num_pages, page_size, 1, bytes_per_token]`` of uint8, int8 or float8_e4m3fn.

    * ``V32`` (DeepSeek-V3.2), 656 bytes, token after token:
      512 e4m3 | 4 float32 scales, one per 128 dims | 64 bfloat16. Values are the latent.
    * ``MODEL1``, 584 bytes, planar in a page of P tokens:
      P × (448 e4m3 | 64 bfloat16), then P × (7 e8m0 scales, one per 64 dims | 1 unused).
      Values are all 512 dims, the rotary part included.

    Attributes:
      latent_dim: quantised dimensions.
      scale_group: dimensions that share a scale.
      bytes_per_token: size of a token; the last dimension of a cache.
    """

    V32 = (512, 128, 656)
    MODEL1 = (448, 64, 584)

    def __init__(self, latent_dim: int, scale_group: int, bytes_per_token: int):
        self.latent_dim = latent_dim
        self.scale_group = scale_group
        self.bytes_per_token = bytes_per_token

    @property
    def rope_dim(self) -> int:
        """Rotary dimensions, stored in bfloat16."""
        return 64

    @property
    def d_qk(self) -> int:
        """Dimensions of a key."""
        return self.latent_dim + self.rope_dim

    @property
    def d_v(self) -> int:
        """Dimensions of a value: the first ones of the key."""
        return 512

    @property
    def num_scales(self) -> int:
        """Scales of a token."""
        return self.latent_dim // self.scale_group

    @property
    def planar(self) -> bool:
        """Whether the scales of a page lie together behind its tokens, as e8m0."""
        return self is KVCacheFormat.MODEL1

    @classmethod
    def of_bytes(cls, bytes_per_token: int) -> KVCacheFormat | None:
        """The format with tokens of that size, if there is one."""
        return next((fmt for fmt in cls if fmt.bytes_per_token == bytes_per_token), None)
