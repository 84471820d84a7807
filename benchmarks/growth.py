"""How relujax's cost grows with runs, depth and images, and whether a formula foretells the memory of a train step.

    python benchmarks/growth.py               # tables, and results/benchmarks/growth.json
    python benchmarks/growth.py depth runs    # these tables only, added to what the file holds

Ideal is a flat line: the same time per image for 1 to 8 runs and for 10,000 to 50,000 images, the same time per image
and layer for depth 20 to 164. Times are medians; the sizes of one table take turns. On an accelerator the file is
growth_accelerator.json.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from race import RESULTS, file_of, machine, write_record
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

Timed = tuple[Callable[[], object], int]  # a call, and of how many units the time is


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
        states = programs.epoch(states, seeds, train, lambda steps: False)
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

    options = CPU_CONVOLUTIONS if on_cpu() else None
    shapes = jax.eval_shape(partial(beginning, trial))
    return jax.jit(step, compiler_options=options).lower(*shapes).compile()


def on_cpu() -> bool:
    """Whether JAX trains on the CPU."""
    return jax.default_backend() == "cpu"


def runs_at_once() -> dict[str, Timed]:
    """One to eight runs of a dense network, on an accelerator of a convolutional one, too."""
    dense, images = trial_of(MLP(8, 128, 10, "elu"), 64, "mnist"), noise(12_800, (28, 28, 1))
    counts = (1, 2, 4, 8)
    calls = {f"784 – 8×128 – 10, batch 64, {n} at once": (epochs(dense, images, n), n * len(images)) for n in counts}
    if not on_cpu():
        trial, images = trial_of(ResNet(20, 10), 128), noise(6_400, (32, 32, 3))
        calls |= {f"ResNet-20, batch 128, {n} at once": (epochs(trial, images, n), n * len(images)) for n in counts}
    return calls


def training_images() -> dict[str, Timed]:
    """10,000 to 50,000 images of a dense network."""
    dense = trial_of(MLP(8, 128, 10, "elu"), 64, "mnist")
    counts = (10_000, 20_000, 50_000)
    return {f"{n:,} images": (epochs(dense, noise(n, (28, 28, 1))), n // 64 * 64) for n in counts}


def depth() -> dict[str, Timed]:
    """ResNet of 20 to 164 layers; per image and layer."""
    batch, steps = (32, 1) if on_cpu() else (128, 50)
    images = noise(batch * steps, (32, 32, 3))
    return {
        f"depth {layers}, batch {batch}": (epochs(trial_of(ResNet(layers, 10), batch), images), len(images) * layers)
        for layers in (20, 56, 110, 164)
    }


TIMES = {"runs": runs_at_once, "images": training_images, "depth": depth}


def main(
    tables: tyro.conf.Positional[tuple[Literal["runs", "images", "depth", "memory"], ...]] = (),
    repeats: int = 5,
    output: Path = RESULTS,
) -> None:
    """Measures all four, or those named."""
    one_cpu_device_per_core()
    jax.config.update("jax_default_matmul_precision", "highest")  # as `run` does: no TF32
    console = Console()
    path = file_of("growth", output)
    record = json.loads(path.read_text()) if tables and path.exists() else {}
    circumstances = {"repeats": repeats, "device": jax.devices()[0].device_kind, "machine": machine()}
    for name, sizes in TIMES.items():
        if tables and name not in tables:
            continue
        timed = sizes()
        seconds = seconds_per_call({size: call for size, (call, _) in timed.items()}, repeats=repeats, rounds=1)
        found = {size: [1e6 * value / timed[size][1] for value in values] for size, values in seconds.items()}
        record[name] = {"microseconds": found, **circumstances}
        unit = "µs per image, run, layer" if name == "depth" else "µs per image and run"
        table = Table("", unit, "min–max", title=name)
        for size, values in found.items():
            table.add_row(size, f"{np.median(values):.3g}", f"{min(values):.3g}–{max(values):.3g}")
        console.print(table)
        write_record(path, record)
    if not tables or "memory" in tables:
        shown = Table("network", "batch", "held MB", "foretold MB", "held / foretold", title="memory of a train step")
        networks = (ResNet(20, 10), ResNet(56, 10), PreActResNet(110, 10), DFNMR(110, 10))
        steps = [(model, batch_size) for model in networks for batch_size in (16, 64)]
        with ThreadPoolExecutor() as pool:  # XLA compiles side by side
            measured = list(pool.map(memory, *zip(*steps)))
        record["memory"] = {"bytes": {}, **circumstances}
        for (model, batch_size), (held, foretold) in zip(steps, measured):
            name = f"{type(model).__name__} {model.depth}"
            record["memory"]["bytes"][f"{name}, batch {batch_size}"] = {"held": held, "foretold": foretold}
            cells = f"{held / 1e6:.0f}", f"{foretold / 1e6:.0f}", f"{held / foretold:.2f}"
            shown.add_row(name, str(batch_size), *cells)
        console.print(shown)
        write_record(path, record)


if __name__ == "__main__":
    tyro.cli(main)
