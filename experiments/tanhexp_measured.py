"""What the TanhExp paper, arXiv:2003.09855, measures without training: functions, output landscapes, times.

Functions without arguments, or partials of one, are the rows of its measurements.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from relujax.activations import Function, elu, mish, relu, silu, tanhexp
from relujax.models.landscape import OutputLandscape
from relujax.timing import seconds_per_call

Arrays = dict[str, np.ndarray]
Row = Callable[[], Arrays]

DRAWN = {"TanhExp": tanhexp, "Mish": mish, "Swish": silu, "ReLU": relu}  # in the order of Fig. 1's caption
SMOOTH = {"TanhExp": tanhexp, "Swish": silu, "Mish": mish}  # of Fig. 2's


def curve(function: Function) -> Arrays:
    """A function from −5 to 5, (401,), its minimum, and how far it is from x where x ≥ 1."""
    x = np.linspace(-5, 5, 10_001, dtype=np.float32)
    value = np.asarray(function(x))
    lowest = np.argmin(value)
    return {
        "x": x[::25],
        "value": value[::25],
        "minimum": np.asarray(value[lowest]),
        "minimum_at": np.where(value[lowest] < 0, x[lowest], np.nan),  # ReLU is 0 in half of all places
        "distance_from_x_beyond_1": np.asarray(np.max(np.abs(value - x)[x >= 1])),
    }


def derivatives(function: Function) -> Arrays:
    """First and second derivative from −5 to 5, (401,), the first at 0 and where it is largest."""
    x = np.linspace(-5, 5, 401, dtype=np.float32)
    first = jax.grad(function)
    slope = np.asarray(jax.vmap(first)(x))
    return {
        "x": x,
        "first_derivative": slope,
        "second_derivative": np.asarray(jax.vmap(jax.grad(first))(x)),
        "slope_at_0": np.asarray(first(0.0)),
        "largest_slope": slope.max(),
    }


@cache
def landscapes() -> dict[str, np.ndarray]:
    """The output of a random net over [0, 10]² for the first 20 seeds where none is flat: name → (20, 100, 100)."""
    axis = np.linspace(0, 10, 100, dtype=np.float32)
    points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    def heights(function: Function, seeds: np.ndarray) -> np.ndarray:
        def of_seed(seed: jax.Array) -> jax.Array:
            output, _ = OutputLandscape(function).init_with_output(jax.random.key(seed), points, train=False)
            return jnp.asarray(output).reshape(100, 100)

        return np.asarray(jax.lax.map(of_seed, seeds))

    every = {name: heights(function, np.arange(100)) for name, function in DRAWN.items()}
    uneven = np.all([np.ptp(values, axis=(1, 2)) > 0 for values in every.values()], axis=0)
    return {name: scaled(values[uneven][:20]) for name, values in every.items()}


def scaled(landscapes: np.ndarray) -> np.ndarray:
    """Each landscape from 0 to 1, (…, H, W)."""
    low = landscapes.min(axis=(-2, -1), keepdims=True)
    return (landscapes - low) / np.ptp(landscapes, axis=(-2, -1), keepdims=True)


def sharpest_bend(landscapes: np.ndarray) -> np.ndarray:
    """The largest |second difference| of neighbours along either axis, (…, H, W) → (…)."""
    bends = [np.abs(np.diff(landscapes, n=2, axis=axis)).max(axis=(-2, -1)) for axis in (-2, -1)]
    return np.maximum(*bends)


def landscape(name: str) -> Arrays:
    """Four landscapes to look at, and the sharpest bend of all 20."""
    return {"landscape": landscapes()[name][:4], "sharpest_bend": sharpest_bend(landscapes()[name])}


def numpy_tanhexp(x: np.float64) -> np.float64:
    """Eq. 3."""
    return x * np.tanh(np.exp(x))


def numpy_mish(x: np.float64) -> np.float64:
    """x · tanh(ln(1 + e^x)), section 2.2."""
    return x * np.tanh(np.log(1 + np.exp(x)))


def numpy_tanhexp_1(x: np.float64) -> np.float64:
    """Eq. 5, second line."""
    return np.tanh(np.exp(x)) - x * np.exp(x) * (np.tanh(np.exp(x)) ** 2 - 1)


def numpy_mish_1(x: np.float64) -> np.float64:
    """Eq. 2."""
    numerator = 4 * (x + 1) + 4 * np.exp(2 * x) + np.exp(3 * x) + np.exp(x) * (4 * x + 6)
    return np.exp(x) * numerator / (2 * np.exp(x) + np.exp(2 * x) + 2) ** 2


def numpy_tanhexp_2(x: np.float64) -> np.float64:
    """Eq. 5 differentiated: e^x (1 − t²)(2 + x − 2 x e^x t), with t = tanh(e^x)."""
    return np.exp(x) * (1 - np.tanh(np.exp(x)) ** 2) * (2 + x - 2 * x * np.exp(x) * np.tanh(np.exp(x)))


def numpy_mish_2(x: np.float64) -> np.float64:
    """Eq. 2, e^x ω / δ², differentiated: e^x ((ω + ω′) δ − 2 ω δ′) / δ³."""
    omega = 4 * (x + 1) + 4 * np.exp(2 * x) + np.exp(3 * x) + np.exp(x) * (4 * x + 6)
    slope = 4 + 8 * np.exp(2 * x) + 3 * np.exp(3 * x) + np.exp(x) * (4 * x + 10)
    delta = 2 * np.exp(x) + np.exp(2 * x) + 2
    return np.exp(x) * ((omega + slope) * delta - 2 * omega * (2 * np.exp(x) + 2 * np.exp(2 * x))) / delta**3


PARTS = ("original function", "1st derivative", "2nd derivative")  # the rows of Table 3
FORMULAS = {
    f"{name}, {part}": formula
    for part, *pair in zip(
        PARTS,
        (numpy_tanhexp, numpy_tanhexp_1, numpy_tanhexp_2),
        (numpy_mish, numpy_mish_1, numpy_mish_2),
    )
    for name, formula in zip(("TanhExp", "Mish"), pair)
}
TIMED = {"ReLU": relu, "ELU": elu, "Swish": silu, "Mish as printed": jax.nn.mish, "Mish": mish, "TanhExp": tanhexp}
COMPILED = {
    f"{name}, {part}, compiled": (function, order)
    for order, part in enumerate(PARTS)
    for name, function in TIMED.items()
}


@cache
def scalar_seconds() -> dict[str, np.ndarray]:
    """Seconds per call of every formula on one number, all in turns: 10 × 5 × 2,000 calls."""
    x = np.float64(1.0)
    calls = {label: partial(formula, x) for label, formula in FORMULAS.items()}
    return seconds_per_call(calls, repeats=10, rounds=5, calls=2000)


@cache
def compiled_seconds() -> dict[str, np.ndarray]:
    """Seconds per call of every compiled function on 2²⁰ numbers, all in turns: 10 × 9 calls."""
    x = jax.random.normal(jax.random.key(0), (2**20,))
    calls = {label: waiting(derivative(function, order), x) for label, (function, order) in COMPILED.items()}
    return seconds_per_call(calls, repeats=10, rounds=9)


def derivative(function: Function, order: int) -> Function:
    """The derivative of that order of an elementwise function, compiled: the gradient of its sum, `order` times."""
    for _ in range(order):
        function = jax.grad(partial(_sum_of, function))
    return jax.jit(function)


def _sum_of(function: Function, x: jax.Array) -> jax.Array:
    return jnp.sum(function(x))


def waiting(function: Function, x: jax.Array) -> Callable[[], object]:
    """A call that returns when the device has the result."""
    return lambda: jax.block_until_ready(function(x))


def time_of(seconds: Callable[[], Mapping[str, np.ndarray]], label: str) -> Arrays:
    """One row of a timing in which all rows took turns: (repeats,)."""
    return {"microseconds": 1e6 * seconds()[label]}


# Studies are compared, and two partials of the same function are not equal: so they are built once.
FUNCTIONS: Mapping[str, Row] = {name: partial(curve, function) for name, function in DRAWN.items()}
DERIVATIVES: Mapping[str, Row] = {name: partial(derivatives, function) for name, function in SMOOTH.items()}
LANDSCAPES: Mapping[str, Row] = {name: partial(landscape, name) for name in DRAWN}
SCALAR_TIMES: Mapping[str, Row] = {label: partial(time_of, scalar_seconds, label) for label in FORMULAS}
COMPILED_TIMES: Mapping[str, Row] = {label: partial(time_of, compiled_seconds, label) for label in COMPILED}
TIMES: Mapping[str, Row] = {**SCALAR_TIMES, **COMPILED_TIMES}
