"""Two kinds of noise that stand in for dropout in TanhExp's MNIST networks, Liu & Di, arXiv:2003.09855, section 4.1.3.

Both are the identity in evaluation and take their randomness from the stream "dropout". Dropout itself is Flax's.
"""

from math import sqrt

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from relujax.errors import InputError

SELU_MINIMUM = -1.0507009873554805 * 1.6732632423543772  # SELU's limit at −∞, −1.7580993


class GaussianDropout(nn.Module):
    """x · n with n ~ N(1, √(rate / (1 − rate))) for every element.

    Deviation: eq. 8 prints rate / (1 − rate) as the standard deviation of Gaussian dropout; Keras, where the authors
    took the layer from, has the root of that, and so have we (0.577 in place of 0.333 at rate 0.25).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:  # any shape and float dtype, kept
        check_rate(self.rate)
        if not train or self.rate == 0:
            return x
        deviation = sqrt(self.rate / (1 - self.rate))
        # Drawn in float32 at least: bfloat16 has too few values for the tails of a normal distribution.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        noise = 1 + deviation * jax.random.normal(self.make_rng("dropout"), x.shape, wide)
        return (x * noise).astype(x.dtype)


class AlphaDropout(nn.Module):
    """a · (x or, with probability `rate`, SELU's minimum) + b, which keeps mean 0 and variance 1.

    Klambauer et al. 2017, arXiv:1706.02515, section 3.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:  # any shape and float dtype, kept
        check_rate(self.rate)
        if not train or self.rate == 0:
            return x
        scale, shift = alpha_affine(self.rate)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        return scale * jnp.where(kept, x, SELU_MINIMUM) + shift


def alpha_affine(rate: float) -> tuple[float, float]:
    """(a, b) of alpha dropout, (0.878904, 0.309040) at rate 0.2.

    Keeping x ~ (0, 1) with probability q, else m, has mean (1 − q) · m and variance q + q (1 − q) · m².
    """
    keep = 1 - rate
    a = 1 / sqrt(keep * (1 + rate * SELU_MINIMUM**2))
    return a, -a * rate * SELU_MINIMUM


def check_rate(rate: float) -> None:
    """Refuses a rate outside [0, 1)."""
    if not 0 <= rate < 1:
        raise InputError(f"a dropout rate must be at least 0 and below 1, e.g. 0.25; got {rate}")
