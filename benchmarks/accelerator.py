"""Train steps on one GPU: relujax with many runs at once, a plain jitted Flax step, and PyTorch in four ways.

    python benchmarks/accelerator.py                          # a table per network, results/benchmarks/accelerator.json
    python benchmarks/accelerator.py ResNet-20 DeepDense-15   # these only, added to what the file holds

Noise of the papers' shapes, SGD with momentum, the papers' batch sizes. float32 is float32: no TF32 on either side.
Runs at once stand against PyTorch that trains them one after another. The contenders of a call compile side by side and
then take turns, each in a process of its own.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from race import RESULTS, Contender, Goal, Measured, machine, race, ratio, write_record
from rich.console import Console
from rich.table import Table
from train_steps import MNIST, WORKS, Work, flax_network

from relujax.errors import unknown

GPU_STEPS = 50  # of a call
RUNS = 5
SIDE = 8192  # of the matrices whose product is the measure of what the device can do

EAGER, COMPILED = "PyTorch eager, float32", "torch.compile, float32"
COMPILED_BF16, GRAPHS_BF16 = "torch.compile, bf16", "CUDA graphs, bf16"
FLOAT32, BF16 = "relujax, 5 runs, float32", "relujax, 5 runs, bf16"
DENSE = (Goal(FLOAT32, (COMPILED,), 10.0),)
CONVOLUTIONAL = (Goal(BF16, (COMPILED_BF16,), 5.0), Goal(BF16, (GRAPHS_BF16,), 5.0))
NETWORKS = {
    "MLP 8×128": Work("mlp", 64, MNIST, DENSE),
    "Autoencoder": replace(WORKS["Autoencoder"], goals=DENSE),
    "DeepDense-15": replace(WORKS["DeepDense-15"], goals=(*DENSE, *CONVOLUTIONAL)),
    "ResNet-20": replace(WORKS["ResNet-20"], goals=CONVOLUTIONAL),
    "PreActResNet-110": replace(WORKS["PreActResNet-110"], goals=CONVOLUTIONAL),
    "DFN-MR-110": replace(WORKS["DFN-MR-110"], goals=CONVOLUTIONAL),
}
NO_CONVOLUTION = ("mlp", "autoencoder")  # where vmap is all there is


def ours(runs: int, precision: str, together: str = "auto") -> Contender:
    """So many runs at once by relujax."""
    options = {"runs": runs, "precision": precision, "together": together}
    return Contender(module="train_steps", function="relujax_steps", options=options, runs=runs)


def theirs(compiled: bool, **options: Any) -> Contender:
    """One run by PyTorch."""
    options = {"compiled": compiled, "device": "cuda", **options}
    return Contender(module="train_steps", function="torch_steps", options=options)


CONTENDERS = {
    "relujax, 1 run, float32": ours(1, "float32"),
    FLOAT32: ours(RUNS, "float32"),
    "relujax, 5 runs, float32, vmap": ours(RUNS, "float32", "vmap"),
    "relujax, 5 runs, float32, map": ours(RUNS, "float32", "map"),
    "relujax, 10 runs, float32": ours(2 * RUNS, "float32"),
    "relujax, 1 run, bf16": ours(1, "bf16"),
    BF16: ours(RUNS, "bf16"),
    "relujax, 5 runs, bf16, vmap": ours(RUNS, "bf16", "vmap"),
    "relujax, 5 runs, bf16, map": ours(RUNS, "bf16", "map"),
    "relujax, 10 runs, bf16": ours(2 * RUNS, "bf16"),
    "plain jitted Flax step, float32": Contender(module="train_steps", function="plain_steps"),
    EAGER: theirs(False),
    COMPILED: theirs(True),
    COMPILED_BF16: theirs(True, bf16=True),
    GRAPHS_BF16: theirs(True, bf16=True, mode="reduce-overhead"),
}
PRODUCTS = {
    precision: Contender(module="accelerator", function="matrix_products", options={"precision": precision})
    for precision in ("float32", "bf16")
}


def matrix_products(seed: int, precision: str) -> Callable[[], float]:
    """A call that multiplies two random matrices ten times."""
    import jax
    import jax.numpy as jnp

    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    a, b = (jax.random.normal(key, (SIDE, SIDE), dtype) for key in jax.random.split(jax.random.key(seed)))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))

    def call() -> float:
        for _ in range(10):
            last = product(a, b)
        return float(last[0, 0])

    return call


def flops_per_image(work: Work) -> int:
    """Of a training step: forward, and twice that for both gradients; a multiply-add is two."""
    from relujax.layers import count

    return 6 * count(flax_network(work.network), (1, *work.images)).multiply_adds


def show(
    console: Console, name: str, work: Work, measured: Mapping[str, Measured], rates: Mapping[str, float]
) -> dict[str, Any]:
    """A table of one network, and the same as JSON."""
    images, per_image = work.steps * work.batch, flops_per_image(work)
    table = Table(
        "contender", "images/s", "min–max", "× compiled bf16", "TFLOP/s", "of products", "ready in s", title=name
    )
    record = {}
    for contender, result in measured.items():
        record[contender] = result.as_json()
        if result.failure:
            table.add_row(contender, result.failure[:60])
            continue
        flops = result.rate * images * per_image
        of_products = flops / rates["bf16" if "bf16" in contender else "float32"]
        record[contender] |= {"images_per_second": result.rate * images, "flops": flops, "of_products": of_products}
        over = ratio(measured, contender, (COMPILED_BF16,))
        table.add_row(
            contender,
            f"{result.rate * images:,.0f}",
            f"{min(result.rates) * images:,.0f}–{max(result.rates) * images:,.0f}",
            f"{over:.2f}" if over else "",
            f"{flops / 1e12:.2f}",
            f"{of_products:.1%}",
            f"{result.first_call:.0f}",
        )
    console.print(table)
    for goal in work.goals:
        console.print(goal.verdict(measured), markup=False)
    return {
        "batch": work.batch,
        "steps_per_call": work.steps,
        "flops_per_image": per_image,
        "flops_of_matrix_products": dict(rates),
        "goals": [goal.as_json(measured) for goal in work.goals],
        "contenders": record,
    }


def main(
    networks: tyro.conf.Positional[tuple[str, ...]] = (),
    repeats: int = 7,
    patience: float = 600.0,
    without: tuple[str, ...] = (),
    output: Path = RESULTS,
) -> None:
    """Races the contenders on every network, one after another, or on those named, all at once.

    `without` leaves out contenders whose name has one of these words in it, and those that are not ready after so many
    seconds of `patience` are out.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the processes share the memory
    for name in networks:
        if name not in NETWORKS:
            raise SystemExit(f"error: {unknown('network', name, NETWORKS)}")
    import jax

    if jax.default_backend() == "cpu":
        raise SystemExit("error: JAX sees no accelerator here; for the CPU there is benchmarks/train_steps.py")
    console = Console(width=150)
    circumstances = {"repeats": repeats, "device": jax.devices()[0].device_kind, "machine": machine()}
    chosen = {name: each for name, each in CONTENDERS.items() if not any(word in name for word in without)}
    path = output / "accelerator.json"
    record = json.loads(path.read_text()) if networks and path.exists() else {"networks": {}}
    for group in [networks] if networks else [(name,) for name in NETWORKS]:
        works = {name: replace(NETWORKS[name], steps=GPU_STEPS) for name in group}
        entries = {
            f"{name}: {contender}": replace(each, options={**each.options, "work": work})
            for name, work in works.items()
            for contender, each in chosen.items()
            if "vmap" not in contender or work.network not in NO_CONVOLUTION
        }
        together = {"warm_up_together": True, "patience": patience}
        measured = race(entries | PRODUCTS, (), repeats, console, **together)
        rates = {precision: 10 * 2 * SIDE**3 * measured[precision].rate for precision in PRODUCTS}
        for name, work in works.items():
            own = {contender: measured[entry] for contender in chosen if (entry := f"{name}: {contender}") in measured}
            for contender, result in own.items():
                result.contender = chosen[contender]
            record["networks"][name] = circumstances | show(console, name, work, own, rates)
        write_record(path, record)


if __name__ == "__main__":
    tyro.cli(main)
