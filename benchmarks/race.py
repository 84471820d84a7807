"""Processes that take turns: the ground of the benchmarks that compare relujax with other ways to train.

Every contender lives in a process of its own, or in several at once, that sleeps until it is told to work. They take
turns, A B C … A B C …, so that whatever else the machine does hits all of them alike. Several processes count as the
sum of their rates, so none is charged for waiting for another.
"""

import importlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console

WARM_UP = 2  # calls; everything is compiled in the first
RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
PACKAGES = ("relujax", "jax", "jaxlib", "flax", "optax", "numpy", "torch")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to train: a file of this directory, the function there that makes it, and how many work at once.

    The function takes what all contenders are given, a seed, and `options`; it returns what is to be timed, a function
    that trains for a while and returns its loss.
    """

    module: str
    function: str = "contender"
    options: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    runs: int = 1  # in each process


@dataclass
class Measured:
    """What the processes of a contender answered."""

    contender: Contender
    seconds: list[list[float]] = field(default_factory=list)  # (repeats, processes)
    losses: list[float] = field(default_factory=list)  # of the first run, after each call
    first_call: float = 0.0  # seconds until it had worked once: imports, data and compilers
    peak_megabytes: list[float] = field(default_factory=list)  # of each process
    failure: str = ""

    @property
    def rates(self) -> list[float]:
        """Runs × calls per second in each repeat."""
        return [sum(self.contender.runs / seconds for seconds in repeat) for repeat in self.seconds]

    @property
    def rate(self) -> float:
        """Their median; nan where there is none."""
        return statistics.median(self.rates) if self.seconds else float("nan")

    def as_json(self) -> dict[str, Any]:
        """All that was measured."""
        return {
            "processes": self.contender.processes,
            "runs_per_process": self.contender.runs,
            "options": dict(self.contender.options),
            "median_per_second": self.rate if self.seconds else None,
            "seconds": self.seconds,
            "seconds_to_first": self.first_call,
            "train_losses": self.losses,
            "peak_megabytes": self.peak_megabytes,
            "failure": self.failure,
        }


class Worker:
    """A process that works whenever it is asked to, and sleeps in between."""

    def __init__(self, contender: Contender, given: Sequence[Any], seed: int):
        context = multiprocessing.get_context("spawn")
        self.answers, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, contender, given, seed), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self) -> None:
        self.answers.send(True)

    def answer(self, until: float = math.inf) -> dict[str, Any]:
        """What it says next; where it says nothing until then, by the monotonic clock, it is ended."""
        patience = None if until == math.inf else max(until - time.monotonic(), 0.0)
        try:
            if not self.answers.poll(patience):
                self.process.kill()
                return {"failure": "not ready in time"}
            return self.answers.recv()
        except EOFError:
            return {"failure": "the process ended"}

    def end(self) -> None:
        self.answers.close()
        self.process.join()


def work(connection: Connection, contender: Contender, given: Sequence[Any], seed: int) -> None:
    """Runs in the worker: warms up, then answers every message with the seconds of a call."""
    try:
        begun = time.perf_counter()
        make = getattr(importlib.import_module(contender.module), contender.function)
        call = make(*given, seed=seed, **contender.options)
        call()
        first_call = time.perf_counter() - begun
        for _ in range(1, WARM_UP):
            call()
        connection.send({"first_call": first_call})
        while connection.recv():
            begun = time.perf_counter()
            loss = call()
            seconds = time.perf_counter() - begun
            usage = resource.getrusage(resource.RUSAGE_SELF)
            connection.send({"seconds": seconds, "loss": loss, "peak_megabytes": usage.ru_maxrss / 1024})
    except EOFError:  # the race is over
        return
    except Exception as error:  # a compiler is missing, memory is short: the others go on
        connection.send({"failure": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def race(
    contenders: Mapping[str, Contender],
    given: Sequence[Any],
    repeats: int,
    console: Console,
    *,
    warm_up_together: bool = False,
    patience: float = math.inf,
) -> dict[str, Measured]:
    """All contenders in turn, `repeats` times; those that fail while they warm up, or take longer (s), are out."""

    def start(name: str) -> list[Worker]:
        contender = contenders[name]
        return [Worker(contender, given, seed) for seed in range(contender.processes)]

    measured = {name: Measured(contender) for name, contender in contenders.items()}
    until = time.monotonic() + patience
    workers = {name: start(name) for name in contenders} if warm_up_together else {}
    with console.status("") as status:
        for name in contenders:
            status.update(f"warming up: {name}")
            own = workers.pop(name, None) or start(name)
            answers = [worker.answer(until) for worker in own]
            measured[name].first_call = max(answer.get("first_call", 0.0) for answer in answers)
            failures = [answer["failure"] for answer in answers if "failure" in answer]
            if failures:
                measured[name].failure = failures[0]
            else:
                workers[name] = own
        for repeat in range(repeats):
            status.update(f"repeat {repeat + 1} of {repeats}")
            for name, own in workers.items():
                answers = together(own)
                measured[name].seconds.append([answer["seconds"] for answer in answers])
                measured[name].losses.append(answers[0]["loss"])
                measured[name].peak_megabytes = [round(answer["peak_megabytes"]) for answer in answers]
        for own in workers.values():
            for worker in own:
                worker.end()
    return measured


def together(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """One call in each of `workers`, begun together."""
    for worker in workers:
        worker.ask()
    return [worker.answer() for worker in workers]


def ratio(measured: Mapping[str, Measured], ours: str, theirs: Sequence[str]) -> float | None:
    """The rate of `ours` over that of the fastest of `theirs`; None where one side has no numbers."""
    others = [measured[name].rate for name in theirs if measured[name].seconds]
    return measured[ours].rate / max(others) if others and measured[ours].seconds else None


@dataclass(frozen=True)
class Goal:
    """`ours` is to be at least `ratio` times as fast as the fastest of `theirs`."""

    ours: str
    theirs: tuple[str, ...]
    ratio: float

    def verdict(self, measured: Mapping[str, Measured]) -> str:
        """One line that says whether it was met."""
        reached = ratio(measured, self.ours, self.theirs)
        found = "not measured" if reached is None else f"{reached:.2f}, {'met' if reached >= self.ratio else 'missed'}"
        return f"goal: {self.ours} ≥ {self.ratio} × {' or '.join(self.theirs)}: {found}"

    def as_json(self, measured: Mapping[str, Measured]) -> dict[str, Any]:
        """The goal and what was reached."""
        reached = ratio(measured, self.ours, self.theirs)
        return {"ours": self.ours, "theirs": self.theirs, "at_least": self.ratio, "reached": reached}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """What was measured, as a file to commit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def file_of(benchmark: str, output: Path) -> Path:
    """Where the record of a benchmark is that runs on the CPU and on accelerators."""
    import jax  # which the workers of PyTorch do without

    return output / f"{benchmark}{'' if jax.default_backend() == 'cpu' else '_accelerator'}.json"


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
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
