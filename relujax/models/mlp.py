"""Dense networks of the ELU paper, Clevert et al., arXiv:1511.07289: section 4.1 and appendix C.

Deviation: which of He et al.'s initializers is meant is not stated; He-uniform with bias 0, the default of the authors'
own framework of that time.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.initializers import he_uniform
from relujax.layers import Activation, as_images, dense, flatten


class MLP(nn.Module):
    """`depth` hidden layers of `width` units, then logits: 784 – 8×128 – 10 in Fig. 2, 784 – 5×256 – 10 in app. C."""

    depth: int
    width: int
    num_classes: int
    activation: ActivationLike
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        x = flatten(as_images(images, self.dtype, smallest=1))
        for layer in range(1, self.depth + 1):
            x = dense(x, self.width, kernel_init=he_uniform, name=f"dense{layer}")
            x = Activation(self.activation, name=f"act{layer}")(x, train=train)
        logits = dense(x, self.num_classes, kernel_init=he_uniform, name="head")
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
        x = pixels = flatten(as_images(images, self.dtype, smallest=1))
        for layer, width in enumerate(self.widths, start=1):
            x = dense(x, width, kernel_init=he_uniform, name=f"encode{layer}")
            x = Activation(self.activation, name=f"encode_act{layer}")(x, train=train)
        x = dense(x, self.code, kernel_init=he_uniform, name="code")
        for layer, width in enumerate(reversed(self.widths), start=1):
            x = dense(x, width, kernel_init=he_uniform, name=f"decode{layer}")
            x = Activation(self.activation, name=f"decode_act{layer}")(x, train=train)
        x = dense(x, pixels.shape[-1], kernel_init=he_uniform, name="reconstruction")
        x = Activation(self.output, name="output_act")(x, train=train)
        return x.astype(jnp.float32)
