"""How many epochs of the ELU paper's net (Fig. 2: 784 – 8×128 – 10, batch 64, SGD 0.01) a CPU trains per second.

    make bench        or: python benchmarks/mnist_mlp.py --data-dir DIR --repeats 15

Compared: relujax with two runs at once and with one alone; PyTorch eager and compiled, one run on two threads and two
processes of one thread each; and a training loop in plain Flax. All do the same: every epoch is a new permutation of
the same 50,000 images, dropping the last 16; every step ends with loss and error of its batch; all in float32.
`tests/test_benchmarks.py` checks that they reach the same weights.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from race import RESULTS, WARM_UP, Contender, Goal, Measured, machine, race, ratio, write_record
from rich.console import Console
from rich.table import Table

from relujax import datasets
from relujax.errors import InputError

TRAIN_IMAGES = 50_000
EAGER, COMPILED = {"compiled": False}, {"compiled": True}
TWO_RUNS, ONE_RUN, FLAX = "relujax, 2 runs at once", "relujax, 1 run", "plain Flax loop"
TORCH, TORCH_COMPILED = "PyTorch eager, 2 threads", "torch.compile, 2 threads"
PAIR, PAIR_COMPILED = "PyTorch eager, 2 processes", "torch.compile, 2 processes"

CONTENDERS = {
    TWO_RUNS: Contender(module="with_relujax", options={"runs": 2, "devices": 2}, runs=2),
    ONE_RUN: Contender(module="with_relujax", options={"runs": 1, "devices": 2}),
    TORCH: Contender(module="with_torch", options={"threads": 2, **EAGER}),
    TORCH_COMPILED: Contender(module="with_torch", options={"threads": 2, **COMPILED}),
    PAIR: Contender(module="with_torch", options={"threads": 1, **EAGER}, processes=2),
    PAIR_COMPILED: Contender(module="with_torch", options={"threads": 1, **COMPILED}, processes=2),
    FLAX: Contender(module="with_flax"),
}


GOALS = (
    Goal(TWO_RUNS, (TORCH,), 2.5),
    Goal(TWO_RUNS, (PAIR, PAIR_COMPILED), 1.4),
    Goal(ONE_RUN, (TORCH,), 1.7),
)


def mnist(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """The 50,000 training images of the study, or noise of the same shape where MNIST is not there."""
    try:
        dataset = datasets.load("mnist", data_dir)
    except InputError:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (TRAIN_IMAGES, 28, 28, 1), dtype=np.uint8)
        return images, generator.integers(0, 10, TRAIN_IMAGES, dtype=np.int32), "synthetic: MNIST is not prepared here"
    images, labels, _, _ = datasets.hold_out(dataset, len(dataset.train_labels) - TRAIN_IMAGES)
    return images, labels, "MNIST"


def show(console: Console, measured: dict[str, Measured], title: str) -> None:
    table = Table(title=title)
    table.add_column("contender", no_wrap=True)
    for heading in ("run-epochs/s", "min–max", "× eager", "peak MB"):
        table.add_column(heading, justify="right")
    for name, result in measured.items():
        if result.failure:
            table.add_row(name, "not measured", "", "", "")
            continue
        over_eager = ratio(measured, name, [TORCH])
        peak = " + ".join(f"{megabytes:.0f}" for megabytes in result.peak_megabytes)
        spread = f"{min(result.rates):.3f}–{max(result.rates):.3f}"
        table.add_row(name, f"{result.rate:.3f}", spread, f"{over_eager:.2f}" if over_eager else "", peak)
    console.print(table)
    for name, result in measured.items():
        if result.failure:
            console.print(f"{name}: {result.failure}", markup=False)
    for goal in GOALS:
        console.print(goal.verdict(measured), markup=False)


def main(
    repeats: int = 15,
    data_dir: Annotated[Path | None, tyro.conf.arg(help="where MNIST is; as in `python -m experiments`")] = None,
    output: Path = RESULTS,
    activation: Literal["elu", "relu", "silu", "tanh"] = "elu",
) -> None:
    """Trains the ELU paper's net with relujax, PyTorch and plain Flax in turn, and compares how fast they are."""
    console = Console()
    net = {"depth": 8, "width": 128, "activation": activation, "batch_size": 64, "learning_rate": 0.01}
    images, labels, data = mnist(data_dir)
    measured = race(CONTENDERS, (images, labels, net), repeats, console)
    show(console, measured, f"784 – 8×128 – 10, {activation}; {data}; median of {repeats} epochs each")
    record = {
        "net": net,
        "data": data,
        "train_images": len(images),
        "repeats": repeats,
        "warm_up_epochs": WARM_UP,
        "machine": machine(),
        "goals": [goal.as_json(measured) for goal in GOALS],
        "contenders": {name: result.as_json() for name, result in measured.items()},
    }
    path = output / "mnist_mlp.json"
    write_record(path, record)
    console.print(f"written: {path}", markup=False)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
