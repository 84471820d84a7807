"""SqueezeNet for CIFAR with simple bypass, Iandola et al., arXiv:1602.07360, as in weiaicunzai/pytorch-cifar100."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax import layers
from relujax.activations import ActivationLike
from relujax.initializers import torch_bias, torch_uniform
from relujax.layers import Activation, as_images, batch_norm, global_average_pool, max_pool

conv = partial(layers.conv, kernel_init=torch_uniform, bias=torch_bias)


class Fire(nn.Module):
    """A 1×1 convolution squeezes, a 1×1 and a 3×3 one expand to half of the filters each: → (N, H, W, filters)."""

    squeeze: int
    filters: int
    activation: ActivationLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        def unit(x: Array, filters: int, kernel: int, name: str) -> Array:
            x = conv(x, filters, kernel, name=f"{name}_conv")
            x = batch_norm(x, train, name=f"{name}_bn")
            return Activation(self.activation, name=f"{name}_act")(x, train=train)

        x = unit(x, self.squeeze, 1, "squeeze")
        halves = unit(x, self.filters // 2, 1, "expand1"), unit(x, self.filters // 2, 3, "expand3")
        return jnp.concatenate(halves, axis=-1)


class SqueezeNet(nn.Module):
    """A stem, eight fires, and a 1×1 convolution as classifier: (N, H, W, C) → (N, num_classes)."""

    num_classes: int
    activation: ActivationLike = "tanhexp"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        x = as_images(images, self.dtype)
        x = conv(x, 96, name="stem_conv")
        x = batch_norm(x, train, name="stem_bn")
        x = max_pool(Activation(self.activation, name="stem_act")(x, train=train))
        # squeeze, filters: fire 2 to fire 9, as the paper counts them
        table = ((16, 128), (16, 128), (32, 256), (32, 256), (48, 384), (48, 384), (64, 512), (64, 512))
        for fire, (squeeze, filters) in enumerate(table, start=2):
            y = Fire(squeeze, filters, self.activation, name=f"fire{fire}")(x, train=train)
            x = x + y if fire in (3, 5, 7) else y
            if fire in (4, 8):
                x = max_pool(x, padding="SAME")  # pads nothing at 32×32
        x = conv(x, self.num_classes, 1, name="head")
        return global_average_pool(x).astype(jnp.float32)
