"""What has to pass before and between training: evaluation, reading the data, compiling.

    python benchmarks/start.py --data-dir DIR    # a table, and results/benchmarks/start.json

On an accelerator the file is start_accelerator.json.

Evaluation: ResNet-20 on 10,000 images as relujax's runner does it and in PyTorch (eager, channels_last, batches of
1000) on the same kind of device, in turn. Data: a process that loads CIFAR-10's decoded and verified arrays, and one
that decodes them, where they are not cached.
Compiling: a process that draws the initial weights of ResNet-110 and takes the first step, with an empty cache of
compiled programs and with the one that this left.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from growth import noise, trial_of
from race import RESULTS, file_of, machine, write_record
from rich.console import Console

from relujax.datasets import cache_home
from relujax.models.resnet import ResNet
from relujax.timing import seconds_per_call

ROOT = Path(__file__).parents[1]
LOAD = """
import sys, time
from pathlib import Path
from relujax import datasets
begun = time.perf_counter()
datasets.load("cifar10", Path(sys.argv[1]) if sys.argv[1] else None)
print(time.perf_counter() - begun)
"""
FIRST_STEP = """
import sys, time
sys.path.insert(0, sys.argv[1])
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_default_matmul_precision", "highest")
from growth import ResNet, epochs, noise, trial_of
begun = time.perf_counter()
step = epochs(trial_of(ResNet(110, 10), 16), noise(16, (32, 32, 3)))
weights = time.perf_counter()
step()
print(weights - begun, time.perf_counter() - weights)
"""


def evaluation(repeats: int) -> dict[str, list[float]]:
    """Seconds for 10,000 images by relujax and by PyTorch, where it is installed."""
    import jax

    from relujax.sharding import everywhere, make_mesh, over_runs
    from relujax.train import compile_programs

    jax.config.update("jax_default_matmul_precision", "highest")  # as `run` does: no TF32
    images, mesh = noise(10_000, (32, 32, 3)), make_mesh(1)
    trial = trial_of(ResNet(20, 10), 128)
    programs = compile_programs(trial, mesh, images.images.shape)
    states = programs.init(jax.device_put(np.zeros(1, np.int32), over_runs(mesh)), images.take(np.arange(1)))
    placed = jax.device_put(images, everywhere(mesh))
    calls = {"relujax": lambda: jax.block_until_ready(programs.measure(states, placed, {"test": placed}))}
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None:
        sys.path.insert(0, str(ROOT / "tests" / "pytorch"))
        import networks

        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True
        model = networks.resnet(20, 10, torch.nn.ReLU(), shortcut="pad").eval()
        model = model.to(device, memory_format=torch.channels_last)
        pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).to(device)

        @torch.no_grad()
        def by_torch() -> object:
            guesses = [model(batch.float().div(255)).argmax(1) for batch in pixels.split(1000)]
            return torch.cat(guesses).cpu()  # which waits for them

        calls["PyTorch eager"] = by_torch
    return {name: values.tolist() for name, values in seconds_per_call(calls, repeats=repeats, rounds=1).items()}


def in_a_process(code: str, *arguments: str) -> list[float]:
    """The seconds that the code says it took."""
    command = [sys.executable, "-c", code, *arguments]
    return [float(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def main(data_dir: Path | None = None, repeats: int = 5, output: Path = RESULTS) -> None:
    """Measures all three."""
    console = Console()
    record: dict = {"machine": machine(), "repeats": repeats, "seconds": {}}
    begun = time.perf_counter()
    for name, seconds in evaluation(repeats).items():
        record["seconds"][f"evaluation of 10,000 images, {name}"] = seconds
    try:
        cached = any((cache_home() / "arrays").glob("cifar10-*"))
        loads = [in_a_process(LOAD, str(data_dir or ""))[0] for _ in range(repeats + (not cached))]
        if not cached:
            record["seconds"]["CIFAR-10, decoded"] = loads[:1]
        record["seconds"]["CIFAR-10 from the cache of decoded arrays"] = loads[not cached :]
    except subprocess.CalledProcessError as error:
        console.print(f"CIFAR-10: {error.stderr.strip().splitlines()[-1]}", markup=False)
    with tempfile.TemporaryDirectory() as cache:
        paths = (str(Path(__file__).parent), cache)
        cold = [in_a_process(FIRST_STEP, *paths)]
        warm = [in_a_process(FIRST_STEP, *paths) for _ in range(repeats)]
    for when, found in {"nothing compiled": cold, "compiled before": warm}.items():
        for what, values in zip(("initial weights", "first step"), zip(*found)):
            record["seconds"][f"{what} of ResNet-110, {when}"] = list(values)
    for what, seconds in record["seconds"].items():
        console.print(f"{what}: {np.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f})", markup=False)
    console.print(f"measured in {time.perf_counter() - begun:.0f} s", style="dim")
    write_record(file_of("start", output), record)


if __name__ == "__main__":
    tyro.cli(main)
