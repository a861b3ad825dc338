"""Times of every operation as shares of what the card does in the same round.

``python -m jax_flash_mla bench --help``; the protocol is in docs/benchmarks.md.
"""
