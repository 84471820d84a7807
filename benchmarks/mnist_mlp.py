"""How many epochs of the ELU paper's net (Fig. 2: 784 – 8×128 – 10, batch 64, SGD 0.01) a CPU trains per second.

    make bench        or: python benchmarks/mnist_mlp.py --data-dir DIR --repeats 15

Compared: relujax with two runs at once and with one alone; PyTorch eager and compiled, one run on two threads and two
processes of one thread each; and a training loop in plain Flax. All do the same: every epoch is a new permutation of
the same 50,000 images, dropping the last 16; every step ends with loss and error of its batch; all in float32.
`tests/test_benchmarks.py` checks that they reach the same weights.

Every contender lives in a process of its own (the last but one in two) that sleeps until it is told to train an epoch.
They take turns, A B C … A B C …, so that whatever else the machine does hits all of them alike. Two processes count as
the sum of their rates, so neither is charged for waiting for the other.
"""

import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from relujax import datasets
from relujax.errors import InputError

TRAIN_IMAGES = 50_000
WARM_UP = 2  # epochs; everything is compiled in the first
PACKAGES = ("relujax", "jax", "jaxlib", "flax", "optax", "numpy", "torch")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to train: a file of this directory, the options of its `contender`, and how many do so at once."""

    module: str
    options: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    runs: int = 1  # in each process


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


@dataclass(frozen=True)
class Goal:
    """`ours` is to train at least `ratio` times as many run-epochs per second as the fastest of `theirs`."""

    ours: str
    theirs: tuple[str, ...]
    ratio: float


GOALS = (
    Goal(TWO_RUNS, (TORCH,), 2.5),
    Goal(TWO_RUNS, (PAIR, PAIR_COMPILED), 1.4),
    Goal(ONE_RUN, (TORCH,), 1.7),
)


@dataclass
class Measured:
    """What the processes of a contender answered."""

    contender: Contender
    seconds: list[list[float]] = field(default_factory=list)  # (repeats, processes)
    losses: list[float] = field(default_factory=list)  # of the first run, after each epoch
    peak_megabytes: list[float] = field(default_factory=list)  # of each process
    failure: str = ""

    @property
    def rates(self) -> list[float]:
        """Run-epochs per second in each repeat."""
        return [sum(self.contender.runs / seconds for seconds in repeat) for repeat in self.seconds]


class Worker:
    """A process that trains an epoch whenever it is asked to, and sleeps in between."""

    def __init__(self, contender: Contender, arrays: Path, net: dict, seed: int):
        context = multiprocessing.get_context("spawn")
        self.answers, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, contender, arrays, net, seed), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self) -> None:
        self.answers.send("epoch")

    def answer(self) -> dict[str, Any]:
        try:
            return self.answers.recv()
        except EOFError:
            return {"failure": "the process ended"}

    def end(self) -> None:
        self.answers.close()
        self.process.join()


def work(connection: Connection, contender: Contender, arrays: Path, net: dict, seed: int) -> None:
    """Runs in the worker: warms up, then answers every message with an epoch's seconds."""
    try:
        images, labels = np.load(arrays / "images.npy"), np.load(arrays / "labels.npy")
        train = importlib.import_module(contender.module).contender
        epoch = train(images, labels, net, seed=seed, **contender.options)
        for _ in range(WARM_UP):
            epoch()
        connection.send({})
        while connection.recv():
            begun = time.perf_counter()
            loss = epoch()
            seconds = time.perf_counter() - begun
            usage = resource.getrusage(resource.RUSAGE_SELF)
            connection.send({"seconds": seconds, "loss": loss, "peak_megabytes": usage.ru_maxrss / 1024})
    except EOFError:  # the race is over
        return
    except Exception as error:  # a compiler is missing, memory is short: the others go on
        connection.send({"failure": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def race(contenders: dict[str, Contender], arrays: Path, net: dict, repeats: int, console: Console) -> dict:
    """All contenders in turn, `repeats` times; those that fail while they warm up are out."""
    measured = {name: Measured(contender) for name, contender in contenders.items()}
    workers: dict[str, list[Worker]] = {}
    with console.status("") as status:
        for name, contender in contenders.items():
            status.update(f"warming up: {name}")
            own = [Worker(contender, arrays, net, seed) for seed in range(contender.processes)]
            failures = [failure for worker in own if (failure := worker.answer().get("failure"))]
            if failures:
                measured[name].failure = failures[0]
            else:
                workers[name] = own
        for repeat in range(repeats):
            status.update(f"repeat {repeat + 1} of {repeats}")
            for name, own in workers.items():
                answers = epoch_of(own)
                measured[name].seconds.append([answer["seconds"] for answer in answers])
                measured[name].losses.append(answers[0]["loss"])
                measured[name].peak_megabytes = [round(answer["peak_megabytes"]) for answer in answers]
        for own in workers.values():
            for worker in own:
                worker.end()
    return measured


def epoch_of(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """One epoch in each of `workers`, begun together."""
    for worker in workers:
        worker.ask()
    return [worker.answer() for worker in workers]


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


def machine() -> dict[str, Any]:
    """What the numbers depend on, and nothing that names the machine."""
    cpu = platform.processor() or platform.machine()
    if (facts := Path("/proc/cpuinfo")).exists():
        models = [line.partition(":")[2].strip() for line in facts.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def reached(goal: Goal, medians: dict[str, float]) -> float | None:
    """The ratio reached, or None where one side has no numbers."""
    theirs = [medians[name] for name in goal.theirs if name in medians]
    return medians[goal.ours] / max(theirs) if theirs and goal.ours in medians else None


def show(console: Console, measured: dict[str, Measured], medians: dict[str, float], title: str) -> None:
    table = Table(title=title)
    table.add_column("contender", no_wrap=True)
    for heading in ("run-epochs/s", "min–max", "× eager", "peak MB"):
        table.add_column(heading, justify="right")
    for name, result in measured.items():
        if result.failure:
            table.add_row(name, "not measured", "", "", "")
            continue
        rates, eager = result.rates, medians.get(TORCH)
        ratio = f"{medians[name] / eager:.2f}" if eager else ""
        peak = " + ".join(f"{megabytes:.0f}" for megabytes in result.peak_megabytes)
        table.add_row(name, f"{medians[name]:.3f}", f"{min(rates):.3f}–{max(rates):.3f}", ratio, peak)
    console.print(table)
    for name, result in measured.items():
        if result.failure:
            console.print(f"{name}: {result.failure}", markup=False)
    for goal in GOALS:
        ratio = reached(goal, medians)
        verdict = "not measured" if ratio is None else f"{ratio:.2f}, {'met' if ratio >= goal.ratio else 'missed'}"
        console.print(f"goal: {goal.ours} ≥ {goal.ratio} × {' or '.join(goal.theirs)}: {verdict}", markup=False)


def main(
    repeats: int = 15,
    data_dir: Annotated[Path | None, tyro.conf.arg(help="where MNIST is; as in `python -m experiments`")] = None,
    output: Path = Path("results/benchmarks"),
    activation: Literal["elu", "relu", "silu", "tanh"] = "elu",
) -> None:
    """Trains the ELU paper's net with relujax, PyTorch and plain Flax in turn, and compares how fast they are."""
    console = Console()
    net = {"depth": 8, "width": 128, "activation": activation, "batch_size": 64, "learning_rate": 0.01}
    images, labels, data = mnist(data_dir)
    with tempfile.TemporaryDirectory() as directory:
        arrays = Path(directory)
        np.save(arrays / "images.npy", images)
        np.save(arrays / "labels.npy", labels)
        measured = race(CONTENDERS, arrays, net, repeats, console)
    medians = {name: statistics.median(result.rates) for name, result in measured.items() if result.seconds}
    show(console, measured, medians, f"784 – 8×128 – 10, {activation}; {data}; median of {repeats} epochs each")
    record = {
        "net": net,
        "data": data,
        "train_images": len(images),
        "repeats": repeats,
        "warm_up_epochs": WARM_UP,
        "machine": machine(),
        "goals": [
            {"ours": goal.ours, "theirs": goal.theirs, "at_least": goal.ratio, "reached": reached(goal, medians)}
            for goal in GOALS
        ],
        "contenders": {
            name: {
                "processes": result.contender.processes,
                "runs_per_process": result.contender.runs,
                "options": result.contender.options,
                "median_run_epochs_per_second": medians.get(name),
                "seconds": result.seconds,
                "train_losses": result.losses,
                "peak_megabytes": result.peak_megabytes,
                "failure": result.failure,
            }
            for name, result in measured.items()
        },
    }
    output.mkdir(parents=True, exist_ok=True)
    path = output / "mnist_mlp.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    console.print(f"written: {path}", markup=False)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
