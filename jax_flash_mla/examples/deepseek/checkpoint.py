"""Saving and resuming: orbax, and the list of losses beside it.

A folder of a run holds

    config.json     what was asked for
    checkpoints/    step by step, each whole or not there
    losses.jsonl    a line for each step
    loss.png
"""

from __future__ import annotations

import json
import pathlib

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from jax_flash_mla.examples.deepseek import config as configs
from jax_flash_mla.examples.deepseek.config import TrainConfig
from jax_flash_mla.examples.deepseek.optimizer import Metrics, State, initial_state
from jax_flash_mla.examples.deepseek.parallel import make_mesh, shardings_of

KEPT = 2


class Run:
    """The folder of a run; resumes what it finds there."""

    def __init__(self, folder: pathlib.Path, config: TrainConfig, mesh: Mesh):
        self._folder, self._config, self._mesh = folder.resolve(), config, mesh
        self._writes = jax.process_index() == 0
        self._refuse_another_model()
        self._manager = ocp.CheckpointManager(
            self._folder / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True),
        )
        if self._writes:
            configs.save(config, self._folder / "config.json")
        self._losses = None

    def _refuse_another_model(self) -> None:
        saved = self._folder / "config.json"
        if saved.exists() and configs.load(saved).model != self._config.model:
            raise ValueError(f"{self._folder} holds a run of another model: choose another folder, or remove it.")

    def start(self) -> State:
        """The newest checkpoint, or random weights; the list of losses is cut to match."""
        state = initial_state(self._config, self._mesh)
        newest = self._manager.latest_step()
        if newest is not None:
            state = self._manager.restore(newest, args=ocp.args.StandardRestore(_as_dict(state)))
            state = State(**state)
        if self._writes:
            self._open_losses(int(state.step))
        return state

    def _open_losses(self, steps: int) -> None:
        path = self._folder / "losses.jsonl"
        lines = path.read_text().splitlines()[:steps] if path.exists() else []
        path.write_text("".join(f"{line}\n" for line in lines))
        self._losses = path.open("a")

    def add(self, step: int, metrics: Metrics) -> None:
        """Writes down the losses of a step."""
        if self._writes:
            line = {"step": step, **{name: float(value) for name, value in metrics._asdict().items()}}
            self._losses.write(json.dumps(line) + "\n")
            self._losses.flush()

    def save(self, state: State) -> None:
        """Saves a checkpoint, unless there is one of this step."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(_as_dict(state)))

    def losses(self) -> list[dict]:
        """The lines written so far."""
        return [json.loads(line) for line in (self._folder / "losses.jsonl").read_text().splitlines()]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()
        if self._losses is not None:
            self._losses.close()


def _as_dict(state: State) -> dict:
    return dict(state._asdict())


def load_weights(folder: pathlib.Path) -> tuple[TrainConfig, dict]:
    """The configuration and the newest weights of a run, on one device.

    Raises:
      ValueError: the folder holds no run, or one without a checkpoint.
    """
    folder = folder.resolve()
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no run: train one there first.")
    config = configs.load(folder / "config.json")
    mesh = make_mesh((1, 1, 1))
    shapes = jax.eval_shape(lambda: initial_state(config, mesh))
    shardings = shardings_of(shapes, mesh)
    wanted = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        if manager.latest_step() is None:
            raise ValueError(f"{folder} holds no checkpoint yet: train longer.")
        restored = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(_as_dict(wanted)))
    return config, restored["weights"]
