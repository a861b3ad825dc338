"""Counting what a traced or compiled program contains."""

import re

import jax


def stage_calls(jaxpr, stage: str) -> int:
    """How often a jaxpr calls a stage of ours, in its subcomputations too."""
    if hasattr(jaxpr, "jaxpr"):
        jaxpr = jaxpr.jaxpr
    count = 0
    for equation in jaxpr.eqns:
        if equation.params.get("name") == f"jax_flash_mla_{stage}":
            count += 1
            continue
        for sub in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(sub):
                count += stage_calls(sub, stage)
    return count


def _is_jaxpr(x) -> bool:
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")


COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def collectives(compiled) -> dict[str, int]:
    """Communication in a compiled program: kind of collective → how many."""
    text = compiled.as_text()
    counts = {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in COLLECTIVES}
    return {kind: count for kind, count in counts.items() if count}
