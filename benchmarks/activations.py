"""Activations on large arrays: value, first and second derivative, beside ReLU, the memory's own speed, and PyTorch.

    python benchmarks/activations.py --elements 16777216    # a table, and results/benchmarks/activations.json

Everything is timed in one process and in turn, forwards and backwards, on the device that JAX chooses. The floor is the
copy of the same array by the same compiler: it reads and writes what every activation has to read and write. The
derivatives are those that training takes: the product of the slope with a gradient (first), and the slope of that
product (second).
PyTorch: its own fused kernel where it has one, torch.compile where it has none; first derivatives with autograd.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from race import RESULTS, file_of, machine, write_record
from rich.console import Console
from rich.table import Table

from relujax.activations import get_activation
from relujax.timing import seconds_per_call

LAUNCHES = 20  # of a timed call on an accelerator, which is waited for once
NAMES = ("relu", "leaky_relu", "elu", "selu", "silu", "gelu", "mish", "tanhexp")
Calls = dict[str, Callable[[], object]]


def ours(x: jax.Array, g: jax.Array, launches: int, memory: dict[str, int]) -> dict[str, Calls]:
    """Compiled calls of relujax by order of the derivative; what each holds beside what it takes goes into `memory`.

    A derivative takes what the forward pass kept, x or the output, as in training.
    """

    def call(name: str, function: Callable, *taken: Any) -> Callable[[], object]:
        compiled = jax.jit(function).lower(*taken).compile()
        held = compiled.memory_analysis()
        memory[name] = held.output_size_in_bytes + held.temp_size_in_bytes
        return lambda: jax.block_until_ready([compiled(*taken) for _ in range(launches)][-1])

    def pulled_back(pull: Callable, g: jax.Array) -> jax.Array:
        return pull(g)[0]

    value = {"copy": call("copy", lambda x: x + 1, x)}
    first, second = ({"sum of two": call("sum of two", jnp.add, x, g)} for _ in range(2))
    for name in NAMES:
        function = get_activation(name)

        def slope(x: jax.Array, function: Callable = function) -> jax.Array:
            return jax.vjp(function, x)[1](g)[0]

        value[f"relujax {name}"] = call(f"value, {name}", function, x)
        first[f"relujax {name}"] = call(f"first derivative, {name}", pulled_back, jax.vjp(function, x)[1], g)
        second[f"relujax {name}"] = call(f"second derivative, {name}", pulled_back, jax.vjp(slope, x)[1], g)
    return {"value": value, "first derivative": first, "second derivative": second}


def theirs(x: np.ndarray, g: np.ndarray, launches: int) -> dict[str, Calls]:
    """The same in PyTorch, where it is installed, on the same kind of device."""
    try:
        import torch
        from torch.nn import functional
    except ImportError:
        return {}
    kernels = {name: getattr(functional, name) for name in ("relu", "elu", "silu", "gelu", "mish")}
    kernels["tanhexp, compiled"] = torch.compile(lambda x: x * torch.tanh(torch.exp(x)))
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    plain, gradient = torch.tensor(x, device=device), torch.tensor(g, device=device)
    tracked = plain.clone().requires_grad_()

    def call(function: Callable) -> Callable[[], None]:
        def again() -> None:
            for _ in range(launches):
                function()
            if device == "cuda":
                torch.cuda.synchronize()

        return again

    def derivative(kernel: Callable) -> Callable:
        output = kernel(tracked)
        return call(lambda: torch.autograd.grad(output, tracked, gradient, retain_graph=True))

    return {
        "value": {f"PyTorch {name}": call(lambda kernel=kernel: kernel(plain)) for name, kernel in kernels.items()},
        "first derivative": {f"PyTorch {name}": derivative(kernel) for name, kernel in kernels.items()},
    }


def main(elements: int = 2**24, repeats: int = 5, output: Path = RESULTS) -> None:
    """Times every activation on an array of that many float32 elements."""
    generator = np.random.default_rng(0)
    x, g = (generator.standard_normal(elements, np.float32) for _ in range(2))
    on_cpu, device = jax.default_backend() == "cpu", jax.devices()[0].device_kind
    launches, memory = 1 if on_cpu else LAUNCHES, {}
    console, record = Console(), {"elements": elements, "device": device, "machine": machine(), "milliseconds": {}}
    pytorch = theirs(x, g, launches)
    for order, calls in ours(jnp.asarray(x), jnp.asarray(g), launches, memory).items():
        seconds = seconds_per_call(calls | pytorch.get(order, {}), repeats=repeats, rounds=3)
        milliseconds = {name: [round(1e3 * s / launches, 4) for s in values] for name, values in seconds.items()}
        record["milliseconds"][order] = milliseconds
        floor = float(np.median(next(iter(milliseconds.values()))))
        table = Table("", "ms", "min–max", "× floor", title=f"{order}, {elements:,} elements")
        for name, values in milliseconds.items():
            middle = float(np.median(values))
            table.add_row(name, f"{middle:.3g}", f"{min(values):.3g}–{max(values):.3g}", f"{middle / floor:.2f}")
        console.print(table)
    record["bytes_held"] = memory
    write_record(file_of("activations", output), record)


if __name__ == "__main__":
    tyro.cli(main)
