"""Train steps of convolutional networks: relujax, the same network in a plain jitted Flax step, and PyTorch.

    python benchmarks/convolutions.py --repeats 9    # a table, and results/benchmarks/convolutions.json

Every contender has a process of its own that sleeps until it is told to take a few steps; they take turns, A B C … A B
C …, so that whatever else the machine does hits all of them alike. Float32 throughout, SGD with momentum, the same
batch of noise again and again. PyTorch gets its faster layout, channels_last. Ratios are of medians.
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro

ROOT = Path(__file__).parents[1]
WARM_UP, STEPS = 2, 2


@dataclass(frozen=True)
class Work:
    """A network, of which `torch` names the builder in tests/pytorch/networks.py, and how many images a step has."""

    family: str
    depth: int
    batch: int
    torch: str
    options: tuple[tuple[str, Any], ...] = ()


WORKS = {
    "ResNet-20, batch 128": Work("ResNet", 20, 128, "resnet", (("shortcut", "pad"),)),
    "ResNet-56, batch 64": Work("ResNet", 56, 64, "resnet", (("shortcut", "pad"),)),
    "ResNet-110, batch 64": Work("ResNet", 110, 64, "resnet", (("shortcut", "pad"),)),
}


def relujax_step(work: Work, *, plain: bool) -> Callable[[], float]:
    """One step with relujax's compile options for convolutions on CPU, or with XLA's defaults as Flax's examples do."""
    import jax
    import jax.numpy as jnp

    from relujax.data import Data, UnitRange
    from relujax.models.resnet import ResNet
    from relujax.recipe import Constant, Epochs, Recipe, Sgd, make_optimizer
    from relujax.train import CPU_CONVOLUTIONS, Split, init_state, train_step
    from relujax.trial import Trial

    recipe = Recipe(
        length=Epochs(1), batch_size=work.batch, optimizer=Sgd(momentum=0.9), schedule=Constant(0.01), weight_decay=1e-4
    )
    trial = Trial(model=ResNet(work.depth, 10), data=Data(name="cifar10", normalize=UnitRange()), recipe=recipe)
    optimizer = make_optimizer(recipe, 1)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (work.batch, 32, 32, 3), np.uint8))
    batch = Split(images, jnp.arange(work.batch) % 10)
    state = jax.jit(lambda images: init_state(trial, optimizer, jnp.array(0), images))(images)
    options = None if plain or jax.default_backend() != "cpu" else CPU_CONVOLUTIONS
    step = jax.jit(
        lambda state, batch: train_step(trial, optimizer, state, batch, jax.random.key(0)),
        donate_argnums=0,
        compiler_options=options,
    )

    def call() -> float:
        nonlocal state
        with jax.default_matmul_precision("highest"):
            state, metrics = step(state, batch)
        return float(metrics["loss"])

    return call


def torch_step(work: Work, *, compiled: bool) -> Callable[[], float]:
    """One step of the same network in PyTorch, eager or compiled."""
    sys.path.insert(0, str(ROOT / "tests" / "pytorch"))
    import networks
    import torch

    model = getattr(networks, work.torch)(work.depth, 10, torch.nn.ReLU(), **dict(work.options))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.rand(work.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(work.batch) % 10
    forward = torch.compile(model) if compiled else model

    def call() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return call


CONTENDERS = {
    "relujax": (relujax_step, {"plain": False}),
    "plain jitted Flax step": (relujax_step, {"plain": True}),
    "PyTorch eager": (torch_step, {"compiled": False}),
    "torch.compile": (torch_step, {"compiled": True}),
}


def serve(connection: Connection, make: Callable, work: Work, options: dict) -> None:
    """Runs in the contender's process: warms up, then answers every message with milliseconds per step."""
    try:
        step = make(work, **options)
        for _ in range(WARM_UP):
            step()
        connection.send(None)
        while connection.recv():
            begun = time.perf_counter()
            for _ in range(STEPS):
                step()
            connection.send(1000 * (time.perf_counter() - begun) / STEPS)
    except EOFError:
        return
    except Exception as error:  # a compiler is missing: the others go on
        connection.send(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def race(work: Work, repeats: int) -> dict[str, list[float] | str]:
    """Milliseconds per step of every contender and repeat, or why it could not take part."""
    context = multiprocessing.get_context("spawn")
    pipes, found = {}, {}
    for name, (make, options) in CONTENDERS.items():
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, make, work, options), daemon=True).start()
        theirs.close()
        failure = ours.recv()
        if failure is None:
            pipes[name], found[name] = ours, []
        else:
            found[name] = failure
    for _ in range(repeats):
        for name, pipe in pipes.items():
            pipe.send(True)
            found[name].append(round(pipe.recv(), 1))
    for pipe in pipes.values():
        pipe.close()
    return found


def main(repeats: int = 9) -> None:
    """Races all contenders on every network."""
    from relujax.environment import environment

    results = {}
    for title, work in WORKS.items():
        results[title] = race(work, repeats)
        print(f"{title}, median of {repeats} (spread)")
        eager = results[title]["PyTorch eager"]
        for name, times in results[title].items():
            if isinstance(times, str):
                print(f"  {name:24} {times}")
                continue
            middle = statistics.median(times)
            ratio = f"{statistics.median(eager) / middle:.2f} × PyTorch eager" if isinstance(eager, list) else ""
            print(f"  {name:24} {middle:7.0f} ms ({min(times):.0f} to {max(times):.0f})  {ratio}", flush=True)
    path = ROOT / "results" / "benchmarks" / "convolutions.json"
    record = {"environment": environment(), "repeats": repeats, "milliseconds_per_step": results}
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
