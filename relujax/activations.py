"""Every nonlinearity of the five papers, and the table `ACTIVATIONS` that names them.

A function takes an array of any shape and keeps its dtype. The smooth ones compute in float32 at least, have
their limits at ±∞ built in, and hold one array for the backward pass. An activation with parameters or
randomness is a Linen module, called as `module(x, train=...)`.
"""

from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.core import Tracer

from relujax.errors import InputError, check_choice

Function: TypeAlias = Callable[..., Array]  # of x, then constants
ActivationLike: TypeAlias = str | Function | nn.Module


def smooth(formula: Function) -> Function:
    """`formula` in float32 or wider, returned in the dtype of x; only x is kept for the backward pass."""

    # jax.checkpoint sets barriers (prevent_cse) and needs them: without, XLA merges the recomputation with
    # the forward pass, and an 8-layer net holds 23 to 45 arrays instead of 16.
    @wraps(formula)
    def function(x: Array, *constants: float, **named: float) -> Array:
        x = jnp.asarray(x, jnp.result_type(x, 0.0))

        @jax.checkpoint
        def evaluate(x: Array) -> Array:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            return formula(wide, *constants, **named).astype(x.dtype)

        return evaluate(x)

    return function


def from_output(slope: Function) -> Callable[[Function], Function]:
    """For a function whose derivative is slope(output, constants): the backward pass keeps the output, not x."""

    def decorate(formula: Function) -> Function:
        @partial(jax.custom_jvp, nondiff_argnums=(1,))
        def with_slope(x: Array, constants: tuple[float, ...]) -> Array:
            return formula(x, *constants)

        @with_slope.defjvp
        def _(constants, primals, tangents):
            y = with_slope(*primals, constants)
            return y, jax.checkpoint(lambda y, dx: slope(y, *constants) * dx)(y, *tangents)

        bind = signature(formula).bind

        # A plain function around it, because a custom_jvp object cannot be pickled.
        @wraps(formula)
        def function(*arguments: Any, **named: Any) -> Array:
            given = bind(*arguments, **named)
            given.apply_defaults()
            x, *constants = given.args
            if any(isinstance(constant, Tracer) for constant in constants):
                return formula(x, *constants)  # which may be differentiated with respect to them
            return with_slope(x, tuple(constants))

        return function

    return decorate


def gated(x: Array, gate: Function) -> Array:
    """x · gate(x), for a gate that rises from 0 to 1 fast enough that the limits are 0 and x."""
    # At ±∞ the product or its derivatives would be 0 · inf = nan; beyond ±1000 every gate is exactly 0 or 1.
    inside = jnp.clip(x, -1000, 1000)
    return jnp.where(x > 1000, x, inside * gate(inside))


def identity(x: Array) -> Array:
    """x."""
    return x


def relu(x: Array) -> Array:
    """max(0, x), with slope 0 at 0  (Nair & Hinton 2010)."""
    return jax.nn.relu(x)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where x ≥ 0, else negative_slope · x  (Maas et al. 2013)."""
    return jax.nn.leaky_relu(x, negative_slope)


def relu6(x: Array) -> Array:
    """min(max(0, x), 6), with slope 0 at 0 and 6  (Krizhevsky 2010)."""
    return jax.nn.relu6(x)


def shifted_relu(x: Array) -> Array:
    """max(−1, x), with slope 0 at −1  (the "SReLU" of Clevert et al., arXiv:1511.07289, section 4)."""
    return jnp.where(x <= -1, -1.0, x)


def relu_plus_identity(x: Array) -> Array:
    """max(0, x) + x  (the ensemble unit of Zhao et al., "Training Better CNNs Requires to Rethink ReLU")."""
    return jax.nn.relu(x) + x


def crelu(x: Array) -> Array:
    """[max(0, x), max(0, −x)] on the last axis, which doubles  (Shang et al., arXiv:1603.05201)."""
    return jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)], axis=-1)


@from_output(lambda y: (1 - y) * (1 + y))
def tanh(x: Array) -> Array:
    """(e^x − e^−x) / (e^x + e^−x)."""
    return jnp.tanh(x)


@from_output(lambda y: y * (1 - y))
def sigmoid(x: Array) -> Array:
    """1 / (1 + e^−x)."""
    return jax.nn.sigmoid(x)


@smooth
def softplus(x: Array) -> Array:
    """log(1 + e^x)  (Dugas et al. 2001)."""
    return jax.nn.softplus(x)


@from_output(lambda y, alpha: jnp.where(y > 0, 1, y + alpha))  # eq. 15
def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha · (e^x − 1)  (Clevert et al., arXiv:1511.07289)."""
    return jax.nn.elu(x, alpha)


@smooth
def selu(x: Array) -> Array:
    """1.0507 · elu(x, alpha=1.6733)  (Klambauer et al., arXiv:1706.02515)."""
    return jax.nn.selu(x)


@from_output(lambda y, alpha: jnp.where(y > 0, 1, y / alpha + 1))
def celu(x: Array, alpha: float = 1.0) -> Array:
    """max(0, x) + min(0, alpha · (e^(x/alpha) − 1))  (Barron, arXiv:1704.07483)."""
    return jax.nn.celu(x, alpha)


@smooth
def silu(x: Array) -> Array:
    """x · sigmoid(x), or Swish with beta = 1  (Elfwing et al., arXiv:1702.03118)."""
    return gated(x, jax.nn.sigmoid)


@smooth
def gelu(x: Array) -> Array:
    """x · Φ(x), with Φ the normal distribution function  (Hendrycks & Gimpel, arXiv:1606.08415)."""
    return gated(x, lambda x: jax.lax.erfc(-x * 0.5**0.5) / 2)


@smooth
def gelu_tanh(x: Array) -> Array:
    """x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³))): GELU's approximation  (arXiv:1606.08415)."""
    # (1 + tanh z) / 2 = sigmoid(2z), which does not cancel for negative x.
    return gated(x, lambda x: jax.nn.sigmoid(2 * (2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3)))


@smooth
def mish(x: Array) -> Array:
    """x · tanh(log(1 + e^x))  (Misra, arXiv:1908.08681)."""

    def gate(x: Array) -> Array:
        # tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2): one exponential in place of three functions.
        # Without the cap, powers of n overflow in the derivatives; beyond it the gate is 1 to full precision.
        e = jnp.exp(jnp.minimum(x, 20.0 if x.dtype == jnp.float64 else 10.0))
        n = e * (e + 2)
        return n / (n + 2)

    return gated(x, gate)


@smooth
def tanhexp(x: Array) -> Array:
    """x · tanh(e^x)  (Liu & Di, arXiv:2003.09855, eq. 3)."""
    # Without the cap e^x overflows; from x = 4 on, tanh(e^x) is 1 to double precision.
    return gated(x, lambda x: jnp.tanh(jnp.exp(jnp.minimum(x, 4.0))))


class PReLU(nn.Module):
    """x where x ≥ 0, else a · x, with one trained a per channel  (He et al., arXiv:1502.01852)."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        slope = self.param("negative_slope", nn.initializers.constant(0.25), x.shape[-1:])
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class SReLU(nn.Module):
    """x between two thresholds, lines beyond, all trained per channel  (Jin et al., arXiv:1512.07030).

    Deviation: SReLU starts its upper threshold at 1; its authors set it from the data after some epochs.
    """

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        def param(name: str, value: float) -> Array:
            return self.param(name, nn.initializers.constant(value), x.shape[-1:]).astype(x.dtype)

        lower, lower_slope = param("lower_threshold", 0.0), param("lower_slope", 0.2)
        upper, upper_slope = param("upper_threshold", 1.0), param("upper_slope", 1.0)
        below = lower + lower_slope * (x - lower)
        above = upper + upper_slope * (x - upper)
        return jnp.where(x <= lower, below, jnp.where(x >= upper, above, x))


class Swish(nn.Module):
    """x · sigmoid(beta · x), with one trained beta  (Ramachandran et al., arXiv:1710.05941)."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        beta = self.param("beta", nn.initializers.ones, ())

        def swish(x: Array, beta: Array) -> Array:
            inside = jnp.where(jnp.isinf(x), 0, x)  # ∞ · 0 would be nan
            return jnp.where(jnp.isinf(x) & (beta * x > 0), x, inside * jax.nn.sigmoid(beta * inside))

        return jax.checkpoint(swish)(x, beta.astype(x.dtype))


class RReLU(nn.Module):
    """x where x ≥ 0, else a · x with a ~ U(1/8, 1/3), in evaluation 11/48 (Xu et al., arXiv:1505.00853)."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        slope = (1 / 8 + 1 / 3) / 2
        if train:
            slope = jax.random.uniform(self.make_rng("dropout"), x.shape, x.dtype, 1 / 8, 1 / 3)
        return jnp.where(x >= 0, x, slope * x)


ACTIVATIONS: dict[str, Function | type[nn.Module]] = {
    "identity": identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "relu6": relu6,
    "shifted_relu": shifted_relu,
    "relu_plus_identity": relu_plus_identity,
    "crelu": crelu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "elu": elu,
    "selu": selu,
    "celu": celu,
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "mish": mish,
    "tanhexp": tanhexp,
    "prelu": PReLU,
    "srelu": SReLU,
    "trainable_swish": Swish,
    "rrelu": RReLU,
}
# Whose names say all. What is added above or elsewhere is not among them: its formula is part of a run's identity.
OURS = (
    "identity relu leaky_relu relu6 shifted_relu relu_plus_identity crelu tanh sigmoid softplus elu selu celu silu "
    "swish gelu gelu_tanh mish tanhexp prelu srelu trainable_swish rrelu"
)
SHIPPED = {name: ACTIVATIONS[name] for name in OURS.split()}


def get_activation(activation: ActivationLike | type[nn.Module]) -> Function | nn.Module:
    """The function or module that `activation` names, or `activation` itself where it already is one."""
    if isinstance(activation, str):
        check_choice("activation", activation, ACTIVATIONS)
        activation = ACTIVATIONS[activation]
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return activation(parent=None)  # unbound, so that whoever uses it decides where its parameters live
    if not callable(activation):
        raise InputError(f"an activation is a name, a function or a Linen module; got {activation!r}")
    return activation
