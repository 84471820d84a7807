"""Weight initializers, each named after the source that a paper takes it from.

A kernel initializer is Flax's: (key, shape, dtype) → array. A bias initializer follows from the layer's fan-in.
"""

from math import sqrt
from typing import cast

import jax
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

_scaled = nn.initializers.variance_scaling

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

    def draw(key: Array, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return cast(Initializer, draw)
