"""How relujax's cost grows with runs, depth and images, and whether a formula foretells the memory of a train step.

    python benchmarks/growth.py    # tables, and results/benchmarks/growth.json

Ideal is a flat line: the same time per image for 1 to 8 runs and for 10,000 to 50,000 images, the same time per image
and layer for depth 20 to 164. Times are medians; the sizes of one table take turns.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from race import machine
from rich.console import Console
from rich.table import Table

from relujax.data import Data, UnitRange
from relujax.layers import count, remat_blocks
from relujax.models.dfn_mr import DFNMR
from relujax.models.mlp import MLP
from relujax.models.preact_resnet import PreActResNet
from relujax.models.resnet import ResNet
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.sharding import everywhere, make_mesh, one_cpu_device_per_core, over_runs
from relujax.timing import seconds_per_call
from relujax.train import CPU_CONVOLUTIONS, Split, TrainState, compile_programs, init_state, make_optimizer, train_step
from relujax.trial import Trial

ROOT = Path(__file__).parents[1]


def trial_of(model, batch_size: int, name: str = "cifar10") -> Trial:
    """A trial of plain SGD with momentum."""
    recipe = Recipe(length=Epochs(1), batch_size=batch_size, optimizer=Sgd(momentum=0.9), schedule=Constant(0.001))
    return Trial(model=model, data=Data(name=name, normalize=UnitRange()), recipe=recipe)


def noise(count: int, shape: tuple[int, int, int]) -> Split:
    """So many images and labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *shape), np.uint8)
    return Split(images, generator.integers(0, 10, count, dtype=np.int32))


def epochs(trial: Trial, images: Split, runs: int = 1) -> Callable[[], object]:
    """A call that trains an epoch of so many runs."""
    mesh = make_mesh(runs)
    train = jax.device_put(images, everywhere(mesh))
    programs = compile_programs(trial, mesh, images.images.shape)
    seeds = jax.device_put(np.arange(runs, dtype=np.int32), over_runs(mesh))
    states = programs.init(seeds, train)

    def call() -> object:
        nonlocal states
        states = programs.epoch(states, seeds, train, lambda: False)
        return jax.block_until_ready(states.sums)

    return call


def memory(model, batch_size: int) -> tuple[int, int]:
    """Bytes that a compiled train step holds beside its state, and those foretold: the activations of the batch."""
    held = compiled_step(trial_of(model, batch_size)).memory_analysis().temp_size_in_bytes
    return held, batch_size * count(model, (1, 32, 32, 3)).activation_bytes


def beginning(trial: Trial) -> tuple[TrainState, Split]:
    """A first state and a batch of a network for CIFAR."""
    batch = noise(trial.recipe.batch_size, (32, 32, 3))
    begin = jax.jit(partial(init_state, trial, make_optimizer(trial.recipe, 1)))
    return begin(jax.numpy.array(0), batch.images), batch


def compiled_step(trial: Trial, remat: bool = False) -> Any:
    """A train step, to be called with what `beginning` gives."""
    optimizer = make_optimizer(trial.recipe, 1)

    def step(state: TrainState, batch: Split) -> Any:
        with remat_blocks() if remat else nullcontext():
            return train_step(trial, optimizer, state, batch, jax.random.key(0))

    options = CPU_CONVOLUTIONS if jax.default_backend() == "cpu" else None
    shapes = jax.eval_shape(partial(beginning, trial))
    return jax.jit(step, compiler_options=options).lower(*shapes).compile()


def main(repeats: int = 5, output: Path = ROOT / "results" / "benchmarks") -> None:
    """Measures all four."""
    one_cpu_device_per_core()
    console = Console()
    record: dict = {"repeats": repeats, "machine": machine(), "microseconds": {}, "memory": {}}

    def table(title: str, unit: str, calls: dict[str, Callable[[], object]], size: dict[str, int]) -> None:
        """Microseconds per unit of `size`."""
        seconds = seconds_per_call(calls, repeats=repeats, rounds=1)
        found = {name: [1e6 * s / size[name] for s in values] for name, values in seconds.items()}
        record["microseconds"][title] = found
        first = float(np.median(next(iter(found.values()))))
        shown = Table("", unit, "min–max", "× first", title=title)
        for name, values in found.items():
            middle = float(np.median(values))
            shown.add_row(name, f"{middle:.2f}", f"{min(values):.2f}–{max(values):.2f}", f"{middle / first:.2f}")
        console.print(shown)

    dense, small = trial_of(MLP(8, 128, 10, "elu"), 64, "mnist"), noise(12_800, (28, 28, 1))
    runs = (1, 2, 4, 8)
    table(
        "runs at once, 784 – 8×128 – 10, batch 64",
        "µs per image and run",
        {f"{n} runs": epochs(dense, small, n) for n in runs},
        {f"{n} runs": n * len(small) for n in runs},
    )
    counts = (10_000, 20_000, 50_000)
    table(
        "training images, 784 – 8×128 – 10, batch 64",
        "µs per image",
        {f"{n:,} images": epochs(dense, noise(n, (28, 28, 1))) for n in counts},
        {f"{n:,} images": n // 64 * 64 for n in counts},
    )
    depths = (20, 56, 110, 164)
    pictures = noise(32, (32, 32, 3))
    table(
        "depth, ResNet, batch 32",
        "µs per image and layer",
        {f"depth {depth}": epochs(trial_of(ResNet(depth, 10), 32), pictures) for depth in depths},
        {f"depth {depth}": 32 * depth for depth in depths},
    )
    shown = Table("network", "batch", "held MB", "foretold MB", "held / foretold", title="memory of a train step")
    for model in (ResNet(20, 10), ResNet(56, 10), PreActResNet(110, 10), DFNMR(110, 10)):
        for batch_size in (16, 64):
            held, foretold = memory(model, batch_size)
            name = f"{type(model).__name__} {model.depth}"
            record["memory"][f"{name}, batch {batch_size}"] = {"held": held, "foretold": foretold}
            shown.add_row(name, str(batch_size), f"{held / 1e6:.0f}", f"{foretold / 1e6:.0f}", f"{held / foretold:.2f}")
    console.print(shown)
    output.mkdir(parents=True, exist_ok=True)
    (output / "growth.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
