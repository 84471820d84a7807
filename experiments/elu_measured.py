"""What the ELU paper, arXiv:1511.07289, measures or proves without training a network of its own.

Section 2, in float64: the unit natural gradient and its bias shift correction.

One unit with n incoming weights w and a bias w0. Of N examples, `activations` (N, n) are those of the units below, and
`weights` (N,) the unit's δ², with δ the derivative of the log-output probability by its net input; `gradient` (n + 1,)
is (g, g0), that of the empirical risk by (w, w0). E_p is the mean over the examples, E_q that weighted with δ². With
ã = (a, 1) the unit Fisher matrix is

    F = E_p(δ² ã ãᵀ) = [A b; bᵀ c],   A = E_p(δ²) E_q(aaᵀ),   b = E_p(δ²) E_q(a),   c = E_p(δ²)

    Theorem 1   F⁻¹ (g, g0) = (Δw, Δw0)  with  Δw = A⁻¹ (g − Δw0 b),  Δw0 = s (g0 − bᵀA⁻¹g),
                s = (1 + E_q(a)ᵀ Var_q(a)⁻¹ E_q(a)) / E_p(δ²)
    Theorem 2   E_p(a)ᵀ Δw + Δw0 = (E_p(a) − k E_q(a))ᵀ A⁻¹g + k g0/c,
                k = 1 + (E_q(a) − E_p(a))ᵀ Var_q(a)⁻¹ E_q(a)

The left-hand side of Theorem 2 is the bias shift: what the update adds to the unit's mean net input. Without the
correction, b = 0 and s = 1/c, it is E_p(a)ᵀ A⁻¹g + g0/c; so k corrects the incoming mean and the bias unit. As in the
paper, an update is still to be multiplied by minus the learning rate.

What the theorems are measured on comes after them: `trained_layers`. The end is section 4.4, the time of a step.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from relujax import datasets, train
from relujax.activations import elu
from relujax.data import UnitRange
from relujax.layers import watch
from relujax.models.mlp import MLP
from relujax.recipe import make_optimizer
from relujax.timing import seconds_per_call
from relujax.trial import Trial


def unit_fisher(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """F = E_p(δ² ã ãᵀ), (n + 1, n + 1); the paper's row and column 0, those of the bias, are the last."""
    extended = np.column_stack([activations, np.ones(len(activations))])
    return extended.T @ (weights[:, None] * extended) / len(extended)


def natural_update(activations: np.ndarray, weights: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """F⁻¹ (g, g0), by inverting the whole matrix: (n + 1,)."""
    return np.linalg.inv(unit_fisher(activations, weights)) @ gradient


def corrected_update(activations: np.ndarray, weights: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """(Δw, Δw0) of Theorem 1, (n + 1,)."""
    c, mean, second, variance = _weighted_moments(activations, weights)
    A, b = c * second, c * mean
    g, g0 = gradient[:-1], gradient[-1]
    # Appendix A: the last row of F⁻¹ is s (−bᵀA⁻¹, 1) with 1/s = c − bᵀA⁻¹b. Appendix B: with m = E_q(a) and
    # v = mᵀ Var⁻¹ m, the inverse of E_q(aaᵀ) = Var + mmᵀ (Sherman-Morrison) gives bᵀA⁻¹b = c v / (1 + v), so that
    # s = (1 + v) / c, which is positive. The first rows of F (Δw, Δw0) = (g, g0) are A Δw + b Δw0 = g.
    s = (1 + mean @ np.linalg.solve(variance, mean)) / c
    bias = s * (g0 - b @ np.linalg.solve(A, g))
    return np.append(np.linalg.solve(A, g - bias * b), bias)


def uncorrected_update(activations: np.ndarray, weights: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """(A⁻¹g, g0/c): the natural gradient that ignores how bias and incoming units interact, b = 0, (n + 1,)."""
    c, _, second, _ = _weighted_moments(activations, weights)
    return np.append(np.linalg.solve(c * second, gradient[:-1]), gradient[-1] / c)


def bias_shift(activations: np.ndarray, update: np.ndarray) -> float:
    """E_p(a)ᵀ Δw + Δw0: what an update (Δw, Δw0) adds to the unit's mean net input."""
    return float(np.mean(activations @ update[:-1] + update[-1]))


def natural_bias_shift(activations: np.ndarray, weights: np.ndarray, gradient: np.ndarray) -> float:
    """The bias shift of the unit natural gradient, by inverting the whole matrix."""
    return bias_shift(activations, natural_update(activations, weights, gradient))


def uncorrected_bias_shift(activations: np.ndarray, weights: np.ndarray, gradient: np.ndarray) -> float:
    """E_p(a)ᵀ A⁻¹g + g0/c."""
    return bias_shift(activations, uncorrected_update(activations, weights, gradient))


def correction(activations: np.ndarray, weights: np.ndarray) -> float:
    """k of Theorem 2."""
    _, mean, _, variance = _weighted_moments(activations, weights)
    return float(1 + (mean - activations.mean(axis=0)) @ np.linalg.solve(variance, mean))


def corrected_bias_shift(activations: np.ndarray, weights: np.ndarray, gradient: np.ndarray) -> float:
    """The bias shift of the unit natural gradient, by Theorem 2."""
    # With the update of Theorem 1 and m_p = E_p(a) it is m_pᵀA⁻¹g + (1 − m_pᵀA⁻¹b) s (g0 − bᵀA⁻¹g), and appendix B's
    # A⁻¹b = Var⁻¹m / (1 + v) turns (1 − m_pᵀA⁻¹b) s into (1 + v − m_pᵀ Var⁻¹ m) / c = k/c; at last b/c = E_q(a).
    c, mean, second, _ = _weighted_moments(activations, weights)
    k = correction(activations, weights)
    shifted_mean = activations.mean(axis=0) - k * mean
    return float(shifted_mean @ np.linalg.solve(c * second, gradient[:-1]) + k * gradient[-1] / c)


def _weighted_moments(activations: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """E_p(δ²), and E_q(a), E_q(aaᵀ), Var_q(a), where q draws an example in proportion to its δ²."""
    share = weights / weights.sum()
    mean = share @ activations
    centred = activations - mean
    second = activations.T @ (share[:, None] * activations)
    return float(weights.mean()), mean, second, centred.T @ (share[:, None] * centred)


Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]  # of a unit's activations, weights and gradient


@dataclass(frozen=True, eq=False)
class Layer:
    """The units of a trained network's layer, in float64."""

    activations: np.ndarray  # (N, n), of the layer below
    weights: np.ndarray  # (N, units)
    gradients: np.ndarray  # (n + 1, units)

    def each(self, of_unit: Rule) -> np.ndarray:
        """`of_unit` for every unit, (units, …)."""
        return np.array([of_unit(self.activations, *unit) for unit in zip(self.weights.T, self.gradients.T)])


@dataclass(frozen=True)
class Updates:
    """How well a rule solves F (Δw, Δw0) = (g, g0): the worst unit of each of the trained networks."""

    rule: Rule

    def __call__(self) -> dict[str, np.ndarray]:
        return {
            "residual": np.array([_residuals(layer, self.rule).max() for layer in trained_layers()]),
            "distance": np.array([_distances(layer, self.rule).max() for layer in trained_layers()]),
        }


@dataclass(frozen=True)
class BiasShifts:
    """Bias shifts by a formula: the mean size over the units of each network, and the worst unit's error in it."""

    formula: Rule

    def __call__(self) -> dict[str, np.ndarray]:
        shifts = np.array([layer.each(self.formula) for layer in trained_layers()])  # (networks, units)
        exact = np.array([layer.each(lambda *unit: bias_shift(unit[0], _solved(*unit))) for layer in trained_layers()])
        worst = np.abs(shifts - exact).max(axis=1)
        return {"bias_shift": np.abs(shifts).mean(axis=1), "distance": worst / np.abs(exact).mean(axis=1)}


def _residuals(layer: Layer, rule: Rule) -> np.ndarray:
    """|F (Δw, Δw0) − (g, g0)| / |(g, g0)| of each unit."""
    missed = layer.each(lambda a, weights, gradient: unit_fisher(a, weights) @ rule(a, weights, gradient) - gradient)
    return np.linalg.norm(missed, axis=1) / np.linalg.norm(layer.gradients, axis=0)


def _distances(layer: Layer, rule: Rule) -> np.ndarray:
    """How far each unit's update is from the solution, by its length."""
    exact = layer.each(_solved)
    return np.linalg.norm(layer.each(rule) - exact, axis=1) / np.linalg.norm(exact, axis=1)


def _solved(activations: np.ndarray, weights: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The solution of F (Δw, Δw0) = (g, g0) by elimination: the reference of all rules, the direct inverse included."""
    return np.linalg.solve(unit_fisher(activations, weights), gradient)


@functools.cache
def trained_layers(networks: int = 10) -> tuple[Layer, ...]:
    """The second hidden layer of 784 – 2×16 – 10 ELU networks after 110 steps on scikit-learn's digits, one per seed.

    ELUs, since a ReLU of the layer below that is silent leaves F without an inverse.
    """
    dataset = datasets.load("digits")
    images, labels = UnitRange()(dataset.train_images), jnp.asarray(dataset.train_labels)
    model = MLP(depth=2, width=16, num_classes=10, activation=elu)

    @jax.jit
    def of_seed(seed: Array, images: Array, labels: Array) -> tuple[Array, Array, Array]:
        return unit_statistics(model, _train(model, seed, images, labels), images, labels)

    layers = [jax.device_get(of_seed(jnp.int32(seed), images, labels)) for seed in range(networks)]
    return tuple(Layer(*(part.astype(np.float64) for part in layer)) for layer in layers)


def _train(model: MLP, seed: Array, images: Array, labels: Array) -> Any:
    """Parameters after five epochs' worth of SGD on batches of 64."""
    init_key, order_key = jax.random.split(jax.random.key(seed))
    params: Any = model.init(init_key, images[:1], train=False)["params"]
    optimizer = optax.sgd(0.05)

    def risk(params: Any, chosen: Array) -> Array:
        logits: Any = model.apply({"params": params}, images[chosen], train=True)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]))

    def step(state: Any, chosen: Array) -> tuple[Any, None]:
        params, opt_state = state
        changes, opt_state = optimizer.update(jax.grad(risk)(params, chosen), opt_state)
        return (optax.apply_updates(params, changes), opt_state), None

    batches = jax.random.randint(order_key, (110, 64), 0, len(images))
    (params, _), _ = lax.scan(step, (params, optimizer.init(params)), batches)
    return params


def unit_statistics(model: MLP, params: Any, images: Array, labels: Array) -> tuple[Array, Array, Array]:
    """`activations`, `weights` and `gradients` of a Layer: that of the last hidden units of an ELU net of depth 2.

    E_p runs over the images and, for each of them, over the classes as the network itself predicts them.
    """
    activations = watch(model, {"params": params}, images)["act1"]
    net_inputs = activations @ params["dense2"]["kernel"] + params["dense2"]["bias"]

    def log_outputs(net_input: Array) -> Array:  # (units,) → (classes,)
        return jax.nn.log_softmax(elu(net_input) @ params["head"]["kernel"] + params["head"]["bias"])

    deltas = jax.vmap(jax.jacobian(log_outputs))(net_inputs)  # (N, classes, units)
    weights = jnp.einsum("nc,ncu->nu", jnp.exp(jax.vmap(log_outputs)(net_inputs)), deltas**2)
    # The risk is the mean of −ln of the right class's output.
    of_label = -deltas[jnp.arange(len(labels)), labels]
    extended = jnp.column_stack([activations, jnp.ones(len(images))])
    return activations, weights, extended.T @ of_label / len(images)


@functools.cache
def _step_seconds(trials: tuple[tuple[str, Trial], ...], batch_size: int, repeats: int) -> dict[str, np.ndarray]:
    return seconds_per_call({name: _train_step(trial, batch_size) for name, trial in trials}, repeats=repeats, rounds=1)


def step_times(
    name: str, reference: str, trials: tuple[tuple[str, Trial], ...], batch_size: int = 10, repeats: int = 20
) -> dict[str, np.ndarray]:
    """Milliseconds of a train step of trial `name`, also by the median of trial `reference`; all trials in turn.

    A row takes its share of one measurement: rows that are timed apart cannot be compared to a few percent.
    """
    seconds = _step_seconds(trials, batch_size, repeats)
    return {
        "relative_step_time": seconds[name] / np.median(seconds[reference]),
        "step_milliseconds": 1000 * seconds[name],
    }


def _train_step(trial: Trial, batch_size: int) -> Callable[[], object]:
    """One compiled step on noise, always from the same state."""
    optimizer = make_optimizer(trial.recipe, steps_per_epoch=500)
    images = jax.random.normal(jax.random.key(0), (batch_size, 32, 32, 3))
    batch = train.Split(images, jnp.arange(batch_size))
    state = train.init_state(trial, optimizer, jnp.int32(0), images)
    options = train.CPU_CONVOLUTIONS if jax.default_backend() == "cpu" else None
    step = jax.jit(functools.partial(train.train_step, trial, optimizer), compiler_options=options)
    return lambda: jax.block_until_ready(step(state, batch, jax.random.key(1)))
