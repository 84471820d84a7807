"""LeNet for CIFAR, LeCun et al. 1998, with the widths of BIGBALLON/CIFAR-ZOO, the code base of TanhExp.

Deviation: no BatchNorm, as in that code base; the TanhExp paper says that it used BatchNorm "in these structures".
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


class LeNet(nn.Module):
    """Two 5×5 convolutions without padding, each pooled, and three dense layers: (N, H, W, C) → (N, num_classes)."""

    num_classes: int
    activation: ActivationLike = "tanhexp"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        x = as_images(images, self.dtype, smallest=16)
        for layer, filters in enumerate((6, 16), start=1):
            x = conv(x, filters, 5, padding="VALID", name=f"conv{layer}")
            x = max_pool(Activation(self.activation, name=f"act{layer}")(x, train=train))
        x = flatten(x)
        for layer, width in enumerate((120, 84), start=3):
            x = dense(x, width, name=f"dense{layer}")
            x = Activation(self.activation, name=f"act{layer}")(x, train=train)
        return dense(x, self.num_classes, name="head").astype(jnp.float32)
