"""Weight initializers, each named after the source that a paper takes it from.

A kernel initializer is Flax's: (key, shape, dtype) → array. A bias initializer follows from the layer's fan-in.
"""

from math import prod, sqrt
from typing import Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

Shape = tuple[int, ...]


def _scaled(
    scale: float, mode: Literal["fan_in", "fan_out", "fan_avg"], distribution: Literal["uniform", "normal"]
) -> Initializer:
    """Flax's `variance_scaling`, variance scale / fan, number by number, but drawn as a vector.

    Of an array with four axes XLA makes a larger program: the initial weights of ResNet-110 take 14 s to compile so,
    and 8 s from vectors (2 CPU cores).
    """

    def draw(key: Array, shape: Shape, dtype: DTypeLike = float) -> Array:
        places = prod(shape[:-2])
        fan_in, fan_out = places * shape[-2], places * shape[-1]
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        variance, numbers = jnp.array(scale / fan, dtype), (prod(shape),)
        if distribution == "normal":
            drawn = jax.random.normal(key, numbers, dtype) * jnp.sqrt(variance)
        else:
            drawn = jax.random.uniform(key, numbers, dtype, -1) * jnp.sqrt(3 * variance)
        return drawn.reshape(shape)

    return cast(Initializer, draw)


# He et al. 2015, arXiv:1502.01852, eq. 10: variance 2 / fan_in, drawn uniformly from ±√(6 / fan_in) or normally.
he_uniform = _scaled(2.0, "fan_in", "uniform")
he_normal = _scaled(2.0, "fan_in", "normal")
# The same with fan_out = k² · filters, as the ResNets of Facebook's Torch draw it.
he_normal_fan_out = _scaled(2.0, "fan_out", "normal")
# Glorot & Bengio 2010, eq. 16: ±√(6 / (fan_in + fan_out)); Keras' default.
glorot_uniform = _scaled(1.0, "fan_avg", "uniform")
# Torch's default: ±√(1 / fan_in), for weights and biases.
torch_uniform = _scaled(1 / 3, "fan_in", "uniform")


def zero_bias(fan_in: int) -> Initializer:
    """0, whatever the fan-in."""
    return nn.initializers.zeros


def torch_bias(fan_in: int) -> Initializer:
    """Uniform in ±√(1 / fan_in), Torch's default."""
    bound = 1 / sqrt(fan_in)

    def draw(key: Array, shape: Shape, dtype: DTypeLike = float) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return cast(Initializer, draw)
