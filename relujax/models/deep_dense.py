"""TanhExp's network for MNIST, Fashion MNIST and KMNIST, Liu & Di, arXiv:2003.09855, sections 4.1 to 4.3, Fig. 4.

Two 5×5 convolutions, then many dense layers of 500 units; built as in the Mish notebook that the paper follows.

Deviation: the paper's number of layers is read as N + 3: N dense layers of 500 units, two convolutions, the output.
Deviation: "Gaussian dropout in each layer" is not specified; it takes the place of every dropout, at the same rate.
Deviation: initialization and BatchNorm are not stated; Keras' defaults (Glorot-uniform, momentum 0.99, epsilon 1e-3).
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.dropout import AlphaDropout, GaussianDropout
from relujax.errors import InputError, check_choice
from relujax.initializers import glorot_uniform, zero_bias
from relujax.layers import Activation, as_images, batch_norm, conv, dense, flatten, max_pool

NOISES = {
    "dropout": "dropout of 0.25 after the pooling and in every dense layer (Fig. 4)",
    "gaussian": "Gaussian dropout of 0.25 in place of every dropout (Fig. 8)",
    "alpha": "alpha dropout of 0.2 in place of the one before the first dense layer (Figs. 9 and 10)",
}


class Layer(nn.Module):
    """500 units, BatchNorm, activation, noise: (N, features) → (N, 500)."""

    activation: ActivationLike
    gaussian: bool

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = dense(x, 500, kernel_init=glorot_uniform, name="dense")
        x = batch_norm(x, train, momentum=0.99, epsilon=1e-3, name="bn")
        x = Activation(self.activation, name="act")(x, train=train)
        if self.gaussian:
            return GaussianDropout(0.25, name="dropout")(x, train=train)
        return nn.Dropout(0.25, deterministic=not train, name="dropout")(x)


class DeepDense(nn.Module):
    """The paper's 15 to 25 layers, of which `depth` − 3 are dense with 500 units; Fig. 10 shows `conv_dropout`."""

    depth: int
    num_classes: int
    activation: ActivationLike = "tanhexp"
    noise: Literal["dropout", "gaussian", "alpha"] = "dropout"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        check_choice("noise", self.noise, NOISES)
        if self.depth < 4:
            raise InputError(f"DeepDense depth must be 4 or more, the paper's are 15 to 25; got {self.depth}")
        x = as_images(images, self.dtype, smallest=10)
        for layer, filters in ((1, 20), (2, 50)):
            x = conv(x, filters, 5, padding="VALID", kernel_init=glorot_uniform, bias=zero_bias, name=f"conv{layer}")
            x = Activation(self.activation, name=f"conv_act{layer}")(x, train=train)
        x = max_pool(x)
        if self.noise == "alpha":
            x = AlphaDropout(0.2, name="conv_dropout")(x, train=train)
        elif self.noise == "gaussian":
            x = GaussianDropout(0.25, name="conv_dropout")(x, train=train)
        else:
            x = nn.Dropout(0.25, deterministic=not train, name="conv_dropout")(x)
        x = flatten(x)
        for layer in range(1, self.depth - 2):
            x = Layer(self.activation, self.noise == "gaussian", name=f"layer{layer}")(x, train=train)
        return dense(x, self.num_classes, kernel_init=glorot_uniform, name="head").astype(jnp.float32)
