"""Activations on large arrays: value, first and second derivative, beside ReLU, the memory's own speed, and PyTorch.

    python benchmarks/activations.py --elements 16777216    # a table, and results/benchmarks/activations.json

Everything is timed in one process and in turn, forwards and backwards. The floor is the copy of the same array by the
same compiler: it reads and writes what every activation has to read and write. The derivatives are those that training
takes: the product of the slope with a gradient (first), and the slope of that product (second).
PyTorch: its own fused kernel where it has one, torch.compile where it has none; first derivatives with autograd.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from race import machine
from rich.console import Console
from rich.table import Table

from relujax.activations import get_activation
from relujax.timing import seconds_per_call

NAMES = ("relu", "leaky_relu", "elu", "selu", "silu", "gelu", "mish", "tanhexp")
ROOT = Path(__file__).parents[1]
Calls = dict[str, Callable[[], object]]


def ours(x: jax.Array, g: jax.Array) -> dict[str, Calls]:
    """Compiled calls of relujax by order of the derivative."""

    def calls(make: Callable) -> Calls:
        found = {}
        for name in NAMES:
            function = jax.jit(make(get_activation(name)))
            found[f"relujax {name}"] = lambda function=function: jax.block_until_ready(function(x, g))
        return found

    def first(f: Callable) -> Callable:
        return lambda x, g: jax.vjp(f, x)[1](g)[0]

    def second(f: Callable) -> Callable:
        return lambda x, g: jax.vjp(lambda x: first(f)(x, g), x)[1](g)[0]

    copy, scale = jax.jit(lambda x: x + 1), jax.jit(lambda x, g: x + g)
    floor = {"copy": lambda: jax.block_until_ready(copy(x))}
    floor_of_two = {"sum of two": lambda: jax.block_until_ready(scale(x, g))}
    return {
        "value": floor | calls(lambda f: lambda x, g: f(x)),
        "first derivative": floor_of_two | calls(first),
        "second derivative": floor_of_two | calls(second),
    }


def theirs(x: np.ndarray, g: np.ndarray) -> dict[str, Calls]:
    """The same in PyTorch, where it is installed."""
    try:
        import torch
        from torch.nn import functional
    except ImportError:
        return {}
    kernels = {name: getattr(functional, name) for name in ("relu", "elu", "silu", "gelu", "mish")}
    kernels["tanhexp, compiled"] = torch.compile(lambda x: x * torch.tanh(torch.exp(x)))
    plain, tracked, gradient = torch.tensor(x), torch.tensor(x, requires_grad=True), torch.tensor(g)
    value: Calls = {f"PyTorch {name}": lambda kernel=kernel: kernel(plain) for name, kernel in kernels.items()}
    first: Calls = {}
    for name, kernel in kernels.items():
        output = kernel(tracked)
        first[f"PyTorch {name}"] = lambda output=output: torch.autograd.grad(
            output, tracked, gradient, retain_graph=True
        )
    return {"value": value, "first derivative": first}


def main(elements: int = 2**24, repeats: int = 5, output: Path = ROOT / "results" / "benchmarks") -> None:
    """Times every activation on an array of that many float32 elements."""
    generator = np.random.default_rng(0)
    x, g = (generator.standard_normal(elements, np.float32) for _ in range(2))
    console, record = Console(), {"elements": elements, "machine": machine(), "milliseconds": {}}
    pytorch = theirs(x, g)
    for order, calls in ours(jnp.asarray(x), jnp.asarray(g)).items():
        seconds = seconds_per_call(calls | pytorch.get(order, {}), repeats=repeats, rounds=3)
        milliseconds = {name: [round(1e3 * s, 3) for s in values] for name, values in seconds.items()}
        record["milliseconds"][order] = milliseconds
        floor = float(np.median(next(iter(milliseconds.values()))))
        table = Table("", "ms", "min–max", "× floor", title=f"{order}, {elements:,} elements")
        for name, values in milliseconds.items():
            middle = float(np.median(values))
            table.add_row(name, f"{middle:.1f}", f"{min(values):.1f}–{max(values):.1f}", f"{middle / floor:.2f}")
        console.print(table)
    output.mkdir(parents=True, exist_ok=True)
    (output / "activations.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
