"""The benchmark's network trained by relujax: the programs of its runner, with nothing to do but train."""

from collections.abc import Callable

import jax
import numpy as np

from relujax.data import Data, UnitRange
from relujax.models.mlp import MLP
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.sharding import everywhere, make_mesh, one_cpu_device_per_core, over_runs
from relujax.train import Split, compile_programs
from relujax.trial import Trial


def make_trial(depth: int, width: int, activation: str, batch_size: int, learning_rate: float) -> Trial:
    """The trial of the benchmark; without probes, as the others have none."""
    return Trial(
        model=MLP(depth=depth, width=width, num_classes=10, activation=activation),
        data=Data(name="mnist", normalize=UnitRange()),
        recipe=Recipe(length=Epochs(1), batch_size=batch_size, optimizer=Sgd(), schedule=Constant(learning_rate)),
    )


def contender(
    images: np.ndarray, labels: np.ndarray, net: dict, *, seed: int, runs: int, devices: int
) -> Callable[[], float]:
    """An epoch of `runs` runs at once, as `relujax.runner` trains them; returns the first run's mean loss."""
    one_cpu_device_per_core(devices)
    mesh = make_mesh(runs)
    train = jax.device_put(Split(images, labels), everywhere(mesh))
    programs = compile_programs(make_trial(**net), mesh, images.shape)
    seeds = jax.device_put(np.arange(seed, seed + runs, dtype=np.int32), over_runs(mesh))
    states = programs.init(seeds, train)

    def epoch() -> float:
        nonlocal states
        with jax.default_matmul_precision("highest"):
            states = programs.epoch(states, seeds, train, lambda steps: False)
        return float(states.sums["loss"][0]) / (len(images) // net["batch_size"])

    return epoch
