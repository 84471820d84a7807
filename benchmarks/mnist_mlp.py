"""relujax against PyTorch and a plain Flax loop: the ELU network of ELU Fig. 2, 784–8×128–10, batch 64, SGD, float32.

    make bench          or: python benchmarks/mnist_mlp.py --repeats 9 --data-dir DIR

Every contender trains the same network on the same 50,000 images in its own process, an epoch at a time, in turn with
the others, which are stopped meanwhile: all meet the same noise, and no idle thread pool takes a core. What counts is run-epochs per second: epochs of training, over all the
runs that train at once. Nothing is evaluated and nothing is read from disk meanwhile.
"""

import json
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

DEPTH, WIDTH, BATCH, LEARNING_RATE = 8, 128, 64, 0.01
TRAIN_IMAGES = 50_000


@dataclass(frozen=True)
class Contender:
    """One way to train: `processes` copies of `make(images, labels)`, each epoch of which advances `runs` runs."""

    make: Callable[[np.ndarray, np.ndarray], Callable[[], object]]
    runs: int = 1
    processes: int = 1


def relujax_two_runs(images, labels):
    return _relujax(images, labels, seeds=(0, 1))


def relujax_one_run(images, labels):
    return _relujax(images, labels, seeds=(0,))


def _relujax(images, labels, seeds):
    import jax

    from experiments import elu
    from relujax.sharding import everywhere, make_mesh, one_cpu_device_per_core, over_runs
    from relujax.train import Split, compile_programs

    one_cpu_device_per_core(len(seeds))
    full = elu.fig_2_median_activation().trials["ELU"]
    trial = type(full)(model=full.model, data=full.data, recipe=full.recipe)
    mesh = make_mesh(len(seeds))
    train = jax.device_put(Split(images, labels), everywhere(mesh))
    run_seeds = jax.device_put(np.array(seeds, np.int32), over_runs(mesh))
    programs = compile_programs(trial, mesh, len(labels))
    state = programs.init(run_seeds, train)

    def epoch():
        nonlocal state
        state, metrics = programs.epoch(state, run_seeds, train, {})
        return float(metrics["train_loss"][0])

    return epoch


def plain_flax(images, labels):
    """As Flax's MNIST example writes it: a TrainState, a jitted step, a Python loop over batches of a permutation."""
    import jax
    import optax
    from flax.training.train_state import TrainState

    from relujax.models.mlp import MLP

    model = MLP(depth=DEPTH, width=WIDTH, num_classes=10, activation="elu")
    pixels = images.astype(np.float32) / 255
    params = model.init(jax.random.key(0), pixels[:1], train=False)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(LEARNING_RATE))

    @jax.jit
    def step(state, batch, targets):
        def loss_of(params):
            logits = state.apply_fn({"params": params}, batch, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=gradients), loss

    generator = np.random.default_rng(0)

    def epoch():
        nonlocal state
        order = generator.permutation(len(labels))
        losses = []
        for start in range(0, len(labels) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            state, loss = step(state, pixels[chosen], labels[chosen])
            losses.append(loss)
        return float(np.mean(jax.device_get(losses)))

    return epoch


def torch_mlp():
    """The same network in torch.nn: He-uniform weights, zero biases."""
    from torch import nn

    widths = [784, *[WIDTH] * DEPTH]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ELU(inplace=True)]
    layers.append(nn.Linear(WIDTH, 10))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def torch_eager(images, labels):
    return _torch(images, labels, threads=os.cpu_count() or 1, compiled=False)


def torch_compiled(images, labels):
    return _torch(images, labels, threads=os.cpu_count() or 1, compiled=True)


def torch_eager_one_thread(images, labels):
    return _torch(images, labels, threads=1, compiled=False)


def torch_compiled_one_thread(images, labels):
    return _torch(images, labels, threads=1, compiled=True)


def _torch(images, labels, threads, compiled):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pixels = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
    targets = torch.from_numpy(labels.astype(np.int64))
    model = torch_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    criterion = torch.nn.CrossEntropyLoss()

    def loss_of(batch, wanted):
        return criterion(model(batch), wanted)

    forward = torch.compile(loss_of) if compiled else loss_of

    def epoch():
        order = torch.randperm(len(targets))
        total = torch.zeros(())
        for start in range(0, len(targets) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            optimizer.zero_grad(set_to_none=True)
            loss = forward(pixels[chosen], targets[chosen])
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / (len(targets) // BATCH)

    return epoch


CONTENDERS = {
    "relujax, 2 runs at once": Contender(relujax_two_runs, runs=2),
    "relujax, 1 run": Contender(relujax_one_run),
    "plain Flax loop": Contender(plain_flax),
    "PyTorch eager": Contender(torch_eager),
    "PyTorch compiled": Contender(torch_compiled),
    "PyTorch eager, a process per core": Contender(torch_eager_one_thread, processes=2),
    "PyTorch compiled, a process per core": Contender(torch_compiled_one_thread, processes=2),
}
GOALS = (  # ours, theirs, at least so many times as fast
    ("relujax, 2 runs at once", "PyTorch eager", 2.5),
    ("relujax, 2 runs at once", "PyTorch eager, a process per core", 1.4),
    ("relujax, 1 run", "PyTorch eager", 1.7),
)


def work(name: str, images: np.ndarray, labels: np.ndarray, pipe) -> None:
    """A contender's process: two epochs to warm up, then one for every word it is sent, until None."""
    try:
        epoch = CONTENDERS[name].make(images, labels)
        epoch()
        pipe.send(epoch())
    except Exception as error:  # a contender that this machine cannot run is reported, the others go on
        pipe.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    while pipe.recv() is not None:
        pipe.send(epoch())
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(repeats: int = 7, data_dir: Path | None = None, output: Path = Path("results/benchmarks")) -> None:
    """Times every contender `repeats` times in turn, prints the medians, and writes mnist_mlp.json into `output`."""
    images, labels, source = _images(data_dir)
    context = multiprocessing.get_context("spawn")
    pipes, processes, refused = {}, {}, {}
    for name, contender in CONTENDERS.items():
        ends = []
        for _ in range(contender.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(name, images, labels, theirs), daemon=True)
            process.start()
            processes.setdefault(name, []).append(process)
            ends.append(ours)
        answers = [end.recv() for end in ends]
        _signal(processes[name], signal.SIGSTOP)
        if any(isinstance(answer, str) for answer in answers):
            refused[name] = next(answer for answer in answers if isinstance(answer, str))
        else:
            pipes[name] = ends
    rates: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(repeats):
        for name, ends in pipes.items():
            with _awake(processes[name]):
                begun = time.perf_counter()
                for end in ends:
                    end.send("epoch")
                for end in ends:
                    end.recv()
                rates[name].append(CONTENDERS[name].runs * len(ends) / (time.perf_counter() - begun))
    memory = {}
    for name, ends in pipes.items():
        with _awake(processes[name]):
            for end in ends:
                end.send(None)
            memory[name] = sum(end.recv() for end in ends)
    _report(rates, memory, refused, source)
    record = {
        "benchmark": "ELU Fig. 2 network, one epoch of training per measurement",
        "images": source,
        "repeats": repeats,
        "run_epochs_per_second": rates,
        "peak_memory_mib": memory,
        "refused": refused,
        "ratios": {f"{ours} / {theirs}": _ratio(rates, ours, theirs) for ours, theirs, _ in GOALS},
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()},
        "versions": _versions(),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "mnist_mlp.json").write_text(json.dumps(record, indent=1) + "\n")


@contextmanager
def _awake(processes: list) -> Iterator[None]:
    _signal(processes, signal.SIGCONT)
    try:
        yield
    finally:
        _signal(processes, signal.SIGSTOP)


def _signal(processes: list, number: signal.Signals) -> None:
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, number)


def _images(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """MNIST where it is prepared, else noise of the same shape: the arithmetic does not depend on it."""
    from relujax import datasets
    from relujax.errors import InputError

    try:
        mnist = datasets.load("mnist", data_dir)
        return mnist.train_images[:TRAIN_IMAGES].copy(), mnist.train_labels[:TRAIN_IMAGES].copy(), "mnist"
    except InputError:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (TRAIN_IMAGES, 28, 28, 1), dtype=np.uint8)
        return images, generator.integers(0, 10, TRAIN_IMAGES, dtype=np.int32), "noise of MNIST's shape"


def _ratio(rates: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of the ratio within a round."""
    if ours not in rates or theirs not in rates:
        return float("nan")
    return statistics.median(a / b for a, b in zip(rates[ours], rates[theirs]))


def _report(rates: dict[str, list[float]], memory: dict[str, float], refused: dict[str, str], source: str) -> None:
    console = Console()
    table = Table("contender", "run-epochs/s, median (min–max)", "× PyTorch eager", "peak MiB")
    for name, own in rates.items():
        spread = f"{statistics.median(own):.2f} ({min(own):.2f}–{max(own):.2f})"
        table.add_row(name, spread, f"{_ratio(rates, name, 'PyTorch eager'):.2f}", f"{memory[name]:.0f}")
    console.print(f"One epoch of {TRAIN_IMAGES:,} images ({source}), n = {len(next(iter(rates.values())))} rounds")
    console.print(table)
    for name, reason in refused.items():
        console.print(f"{name} does not run here: {reason}")
    for ours, theirs, goal in GOALS:
        ratio = _ratio(rates, ours, theirs)
        console.print(f"{'met' if ratio >= goal else 'MISSED'}: {ours} / {theirs} = {ratio:.2f} (goal {goal})")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("jax", "jaxlib", "flax", "optax", "torch", "numpy")}


if __name__ == "__main__":
    tyro.cli(main)
