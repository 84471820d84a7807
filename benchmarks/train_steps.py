"""Train steps of the papers' networks: relujax, the same network in a plain jitted Flax step, and PyTorch.

    python benchmarks/train_steps.py --repeats 9    # tables, and results/benchmarks/train_steps.json
    python benchmarks/train_steps.py --only "ResNet-20"

Float32 throughout, SGD with momentum, a few batches of noise again and again; relujax hands them out as it does while
training, the others have theirs at hand. PyTorch gets its faster layout, channels_last. Two runs at once stand against
two processes of one thread each.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from race import RESULTS, Contender, Goal, machine, race, ratio, write_record
from rich.console import Console
from rich.table import Table

from relujax.errors import unknown

ROOT = Path(__file__).parents[1]
STEPS = 3  # of a call

ONE, TWO, PLAIN = "relujax, 1 run", "relujax, 2 runs at once", "plain jitted Flax step"
EAGER, COMPILED = "PyTorch eager, 2 threads", "torch.compile, 2 threads"
PAIR, PAIR_COMPILED = "PyTorch eager, 2 processes", "torch.compile, 2 processes"
TORCH = (EAGER, COMPILED)
BEST_TORCH = (EAGER, COMPILED, PAIR, PAIR_COMPILED)


@dataclass(frozen=True)
class Work:
    """A network of `networks` below, the images of a step, and what relujax is to reach beside PyTorch."""

    network: str
    batch: int
    images: tuple[int, int, int]
    goals: tuple[Goal, ...]
    steps: int = STEPS  # of a call


CIFAR, MNIST = (32, 32, 3), (28, 28, 1)
MLP_OF_ELU = {"depth": 8, "width": 128, "activation": "elu"}
DENSE = (Goal(TWO, (EAGER,), 2.5), Goal(TWO, BEST_TORCH, 1.5))
WORKS = {
    "Autoencoder": Work("autoencoder", 64, MNIST, DENSE),
    "DeepDense-15": Work("deep_dense", 128, MNIST, DENSE),
    "ResNet-20": Work("resnet_20", 128, CIFAR, (Goal(ONE, TORCH, 1.0), Goal(TWO, BEST_TORCH, 1.0))),
    "PreActResNet-110": Work("preact_110", 64, CIFAR, (Goal(ONE, TORCH, 1.2),)),
    "DFN-MR-110": Work("dfn_mr_110", 64, CIFAR, (Goal(ONE, TORCH, 1.2),)),
}

CONTENDERS = {
    ONE: Contender(module="train_steps", function="relujax_steps", options={"runs": 1}),
    TWO: Contender(module="train_steps", function="relujax_steps", options={"runs": 2}, runs=2),
    PLAIN: Contender(module="train_steps", function="plain_steps"),
    EAGER: Contender(module="train_steps", function="torch_steps", options={"threads": 2, "compiled": False}),
    COMPILED: Contender(module="train_steps", function="torch_steps", options={"threads": 2, "compiled": True}),
    PAIR: Contender(
        module="train_steps", function="torch_steps", options={"threads": 1, "compiled": False}, processes=2
    ),
    PAIR_COMPILED: Contender(
        module="train_steps", function="torch_steps", options={"threads": 1, "compiled": True}, processes=2
    ),
}


def flax_network(name: str) -> Any:
    """The network as relujax builds it."""
    from relujax.models.deep_dense import DeepDense
    from relujax.models.dfn_mr import DFNMR
    from relujax.models.mlp import MLP, Autoencoder
    from relujax.models.preact_resnet import PreActResNet
    from relujax.models.resnet import ResNet

    return {
        "mlp": partial(MLP, 8, 128, 10, "elu"),
        "autoencoder": partial(Autoencoder, "elu"),
        "deep_dense": partial(DeepDense, 15, 10),
        "resnet_20": partial(ResNet, 20, 10),
        "preact_110": partial(PreActResNet, 110, 10),
        "dfn_mr_110": partial(DFNMR, 110, 10),
    }[name]()


def torch_network(name: str) -> Any:
    """The same from the builders that the tests compare with relujax."""
    sys.path.insert(0, str(ROOT / "tests" / "pytorch"))
    import networks
    import torch
    import with_torch

    relu = torch.nn.ReLU()
    return {
        "mlp": lambda: torch.nn.Sequential(torch.nn.Flatten(), with_torch.make_model(MLP_OF_ELU)),
        "autoencoder": partial(networks.autoencoder, torch.nn.ELU()),
        "deep_dense": partial(networks.deep_dense, 15, 10, networks.TanhExp()),
        "resnet_20": partial(networks.resnet, 20, 10, relu, shortcut="pad"),
        "preact_110": partial(networks.preact_resnet, 110, 10, relu),
        "dfn_mr_110": partial(networks.DFNMR, 110, 10, relu),
    }[name]()


def trial_of(work: Work) -> Any:
    """The trial that all contenders train."""
    from relujax.data import Data, UnitRange
    from relujax.recipe import Constant, Epochs, Recipe, Sgd
    from relujax.trial import Trial

    recipe = Recipe(
        length=Epochs(1),
        batch_size=work.batch,
        optimizer=Sgd(momentum=0.9),
        schedule=Constant(0.001),
        loss="squared_error" if work.network == "autoencoder" else "cross_entropy",
    )
    name = "mnist" if work.images == MNIST else "cifar10"
    return Trial(model=flax_network(work.network), data=Data(name=name, normalize=UnitRange()), recipe=recipe)


def noise(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels for the steps of a call."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (work.steps * work.batch, *work.images), np.uint8)
    return images, generator.integers(0, 10, len(images), dtype=np.int32)


def relujax_steps(
    work: Work, *, seed: int, runs: int, together: Any = "auto", precision: str = "float32"
) -> Callable[[], float]:
    """The programs of relujax's runner."""
    import jax
    import jax.numpy as jnp

    from relujax.sharding import everywhere, make_mesh, one_cpu_device_per_core, over_runs
    from relujax.train import Split, compile_programs

    one_cpu_device_per_core()
    mesh = make_mesh(runs)
    images, labels = noise(work)
    train = jax.device_put(Split(images, labels), everywhere(mesh))
    trial = trial_of(work)
    if precision == "bf16":
        trial = replace(trial, model=trial.model.clone(dtype=jnp.bfloat16))
    programs = compile_programs(trial, mesh, images.shape, together=together)
    seeds = jax.device_put(np.arange(seed, seed + runs, dtype=np.int32), over_runs(mesh))
    states = programs.init(seeds, train)

    def call() -> float:
        nonlocal states
        with jax.default_matmul_precision("highest"):
            states = programs.epoch(states, seeds, train, lambda steps: False)
        return float(states.sums["loss"][0]) / work.steps

    return call


def plain_steps(work: Work, *, seed: int) -> Callable[[], float]:
    """A jitted step called from Python with XLA's default options, as in Flax's examples."""
    import jax
    import jax.numpy as jnp

    from relujax.recipe import make_optimizer
    from relujax.train import Split, init_state, train_step

    trial = trial_of(work)
    optimizer = make_optimizer(trial.recipe, work.steps)
    images, labels = noise(work)
    parts = zip(np.split(images, work.steps), np.split(labels, work.steps))
    batches = [Split(jnp.asarray(a), jnp.asarray(b)) for a, b in parts]
    state = jax.jit(lambda images: init_state(trial, optimizer, jnp.array(seed), images))(batches[0].images)
    step = jax.jit(partial(train_step, trial, optimizer), donate_argnums=0)

    def call() -> float:
        nonlocal state
        losses = []
        with jax.default_matmul_precision("highest"):
            for batch in batches:
                state, metrics = step(state, batch, jax.random.key(0))
                losses.append(metrics["loss"])
        return float(sum(losses)) / work.steps

    return call


def torch_steps(
    work: Work, *, seed: int, compiled: bool, threads: int = 1, device: str = "cpu", bf16: bool = False, mode: str = ""
) -> Callable[[], float]:
    """PyTorch, eager or compiled (`mode` "reduce-overhead": as CUDA graphs), with bf16 by autocast."""
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if device == "cpu":
        torch.set_num_threads(threads)
        torch._inductor.config.compile_threads = 1  # no pool of compilers beside the contenders
    model = torch_network(work.network).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, fused=True)
    images, labels = noise(work)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    pixels = pixels.to(device).contiguous(memory_format=torch.channels_last)
    batches = list(zip(pixels.chunk(work.steps), torch.from_numpy(labels).to(device).long().chunk(work.steps)))
    forward = torch.compile(model, mode=mode or None) if compiled else model

    def call() -> float:
        losses = []
        for pixels, labels in batches:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                outputs = forward(pixels)
                if work.network == "autoencoder":
                    loss = (outputs - pixels.flatten(1)).square().sum(1).mean() / 2
                else:
                    loss = functional.cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach().clone())  # a CUDA graph writes the next one into the same memory
        return float(sum(losses)) / work.steps

    return call


def main(repeats: int = 9, only: tuple[str, ...] = (), output: Path = RESULTS) -> None:
    """Races all contenders on every network, or on those in `only`."""
    console = Console()
    for name in only:
        if name not in WORKS:
            raise SystemExit(f"error: {unknown('network', name, WORKS)}")
    path = output / "train_steps.json"
    record = json.loads(path.read_text()) if only and path.exists() else {"works": {}}
    for name, work in WORKS.items():
        if only and name not in only:
            continue
        measured = race(CONTENDERS, (work,), repeats, console)
        table = Table("contender", "images/s", "min–max", "× eager", "peak MB", title=f"{name}, batch {work.batch}")
        for contender, result in measured.items():
            if result.failure:
                table.add_row(contender, result.failure[:60], "", "", "")
                continue
            rates = [rate * STEPS * work.batch for rate in result.rates]
            over_eager = ratio(measured, contender, (EAGER,))
            table.add_row(
                contender,
                f"{result.rate * STEPS * work.batch:,.0f}",
                f"{min(rates):,.0f}–{max(rates):,.0f}",
                f"{over_eager:.2f}" if over_eager else "",
                " + ".join(f"{peak:.0f}" for peak in result.peak_megabytes),
            )
        console.print(table)
        for goal in work.goals:
            console.print(goal.verdict(measured), markup=False)
        record["works"][name] = {
            "batch": work.batch,
            "steps_per_call": STEPS,
            "repeats": repeats,
            "machine": machine(),
            "goals": [goal.as_json(measured) for goal in work.goals],
            "contenders": {contender: result.as_json() for contender, result in measured.items()},
        }
        write_record(path, record)


if __name__ == "__main__":
    tyro.cli(main)
