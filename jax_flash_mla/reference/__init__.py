"""The semantics of every operation in pure JAX.

These functions are the specification: kernels are tested against them, and they run
wherever no kernel does. They never materialise a score matrix: keys come in blocks
of bounded size, in loops whose trip count follows the lengths.
"""
