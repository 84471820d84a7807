"""Dense networks of the ELU paper, Clevert et al., arXiv:1511.07289: section 4.1 and appendix C.

Deviation: which of He et al.'s initializers is meant is not stated; He-uniform with bias 0, the default of the authors'
own framework of that time.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.errors import InputError
from relujax.initializers import he_uniform
from relujax.layers import Activation


class MLP(nn.Module):
    """`depth` hidden layers of `width` units, then logits: 784 – 8×128 – 10 in Fig. 2, 784 – 5×256 – 10 in app. C."""

    depth: int
    width: int
    num_classes: int
    activation: ActivationLike
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        x = _flatten(images).astype(self.dtype)
        for layer in range(1, self.depth + 1):
            x = nn.Dense(self.width, dtype=self.dtype, kernel_init=he_uniform, name=f"dense{layer}")(x)
            x = Activation(self.activation, name=f"act{layer}")(x, train=train)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=he_uniform, name="head")(x)
        return logits.astype(jnp.float32)


class Autoencoder(nn.Module):
    """784 – 1000 – 500 – 250 – 30 – 250 – 500 – 1000 – 784 (section 4.1, after Martens 2010); output (N, 784).

    Deviation: code and output units are not stated; a linear code, as in Martens 2010, and sigmoid output units. With
    linear ones (output="identity") every activation diverges in the third step at the paper's learning rate of 1e-2.
    """

    activation: ActivationLike
    output: ActivationLike = "sigmoid"  # or "identity"
    widths: tuple[int, ...] = (1000, 500, 250)
    code: int = 30
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        x = pixels = _flatten(images).astype(self.dtype)
        for layer, width in enumerate(self.widths, start=1):
            x = nn.Dense(width, dtype=self.dtype, kernel_init=he_uniform, name=f"encode{layer}")(x)
            x = Activation(self.activation, name=f"encode_act{layer}")(x, train=train)
        x = nn.Dense(self.code, dtype=self.dtype, kernel_init=he_uniform, name="code")(x)
        for layer, width in enumerate(reversed(self.widths), start=1):
            x = nn.Dense(width, dtype=self.dtype, kernel_init=he_uniform, name=f"decode{layer}")(x)
            x = Activation(self.activation, name=f"decode_act{layer}")(x, train=train)
        x = nn.Dense(pixels.shape[-1], dtype=self.dtype, kernel_init=he_uniform, name="reconstruction")(x)
        x = Activation(self.output, name="output_act")(x, train=train)
        return x.astype(jnp.float32)


def _flatten(images: Array) -> Array:
    if images.ndim != 4:
        raise InputError(f"images must have shape (N, H, W, C), e.g. (64, 28, 28, 1); got {images.shape}")
    return images.reshape(images.shape[0], -1)
