"""What a checkpoint costs: how long training stops for it, and how long a thread beside it then writes.

    python benchmarks/checkpoints.py    # a table, and results/benchmarks/checkpoints.json

The share is that of --checkpoint-every 5m if training stood still for all of it, which it does not: an upper limit.
"""

import statistics
import tempfile
import time
from pathlib import Path

import jax
import tyro
from growth import noise, trial_of
from race import RESULTS, machine, write_record
from rich.console import Console
from rich.table import Table

from relujax import hosts
from relujax.checkpoint import Checkpoints
from relujax.models.deep_dense import DeepDense
from relujax.models.elu_net import ELUNet18
from relujax.models.mlp import MLP
from relujax.models.preact_resnet import PreActResNet
from relujax.recipe import make_optimizer
from relujax.train import init_state

EVERY = 300.0
NETWORKS = {
    "MLP 8×128": (MLP(8, 128, 10, "elu"), (28, 28, 1)),
    "15-layer MNIST network": (DeepDense(15, 10, "tanhexp"), (28, 28, 1)),
    "PreActResNet-164": (PreActResNet(164, 10), (32, 32, 3)),
    "ELU, 18 layers": (ELUNet18(100), (32, 32, 3)),
}


def main(repeats: int = 7, output: Path = RESULTS) -> None:
    """One run of each network; the first save, which loads Orbax, is left out."""
    console, table = Console(), Table("network", "MB", "training stops (ms)", "then written in (s)", "share at 5m (%)")
    record: dict = {"machine": machine(), "networks": {}}
    for name, (model, shape) in NETWORKS.items():
        trial, images = trial_of(model, 16), noise(1, shape).images
        state = jax.jit(lambda seed, t=trial, i=images: init_state(t, make_optimizer(t.recipe, 1), seed, i))(0)
        stopped, written = [], []
        with tempfile.TemporaryDirectory() as directory:
            checkpoints = Checkpoints(Path(directory))
            for step in range(1, repeats + 2):
                begun = time.perf_counter()
                checkpoints.save(step, hosts.gather(state))
                stopped.append(time.perf_counter() - begun)
                checkpoints.wait()
                written.append(time.perf_counter() - begun - stopped[-1])
            checkpoints.close()
        megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
        record["networks"][name] = {"megabytes": megabytes, "stopped": stopped[1:], "written": written[1:]}
        stop, write = statistics.median(stopped[1:]), statistics.median(written[1:])
        share = f"{100 * (stop + write) / EVERY:.2f}"
        table.add_row(name, f"{megabytes:.1f}", f"{1000 * stop:.1f}", f"{write:.2f}", share)
    console.print(table)
    write_record(output / "checkpoints.json", record)


if __name__ == "__main__":
    tyro.cli(main)
