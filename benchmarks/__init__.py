"""Times of every operation as shares of what the card does in the same round.

``python -m benchmarks --help``; the protocol is in docs/benchmarks.md.
"""
