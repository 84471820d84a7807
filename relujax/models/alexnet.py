"""AlexNet for CIFAR, Krizhevsky et al. 2012, in the form of BIGBALLON/CIFAR-ZOO, the code base of TanhExp.

Deviation: neither BatchNorm nor dropout, as there; the TanhExp paper says it used BatchNorm "in these structures".
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax import layers
from relujax.activations import ActivationLike
from relujax.initializers import torch_bias, torch_uniform
from relujax.layers import Activation, as_images, flatten, max_pool

conv = partial(layers.conv, kernel_init=torch_uniform, bias=torch_bias)
dense = partial(layers.dense, kernel_init=torch_uniform, bias=torch_bias)


class AlexNet(nn.Module):
    """Five convolutions, three of them pooled, and one dense layer: (N, H, W, C) → (N, num_classes)."""

    num_classes: int
    activation: ActivationLike = "tanhexp"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        x = as_images(images, self.dtype)
        # filters, kernel, stride, pooled
        table = ((64, 11, 4, True), (192, 5, 1, True), (384, 3, 1, False), (256, 3, 1, False), (256, 3, 1, True))
        for layer, (filters, kernel, stride, pooled) in enumerate(table, start=1):
            x = conv(x, filters, kernel, stride, name=f"conv{layer}")
            x = Activation(self.activation, name=f"act{layer}")(x, train=train)
            if pooled:
                x = max_pool(x, padding="SAME")  # pads nothing at 32×32; lets smaller images through
        return dense(flatten(x), self.num_classes, name="head").astype(jnp.float32)
