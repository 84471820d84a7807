"""Squeeze-and-excitation ResNet for CIFAR, Hu et al., arXiv:1709.01507, as in the Mish authors' notebooks.

Deviation: its last stage has 516 filters, as in the code of that time (weiaicunzai/pytorch-cifar100), of which the Mish
notebooks are copies; 512 today. An activation ends the residual branch before the excitation, as there.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax import layers
from relujax.activations import ActivationLike
from relujax.errors import InputError
from relujax.initializers import torch_bias, torch_uniform
from relujax.layers import Activation, as_images, batch_norm, global_average_pool

conv = partial(layers.conv, kernel_init=torch_uniform, bias=torch_bias)
dense = partial(layers.dense, kernel_init=torch_uniform, bias=torch_bias)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # of each stage, by depth


class Block(nn.Module):
    """y = act(s · F(x) + shortcut(x)), where s in (0, 1) is a gate per channel computed from F's mean over the image.

    (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters).
    """

    filters: int
    stride: int
    activation: ActivationLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = conv(x, self.filters, stride=self.stride, name="conv1")
        y = batch_norm(y, train, name="bn1")
        y = Activation(self.activation, name="act1")(y, train=train)
        y = conv(y, self.filters, name="conv2")
        y = batch_norm(y, train, name="bn2")
        y = Activation(self.activation, name="act2")(y, train=train)
        gate = dense(global_average_pool(y), self.filters // 16, name="squeeze")
        gate = Activation(self.activation, name="squeeze_act")(gate, train=train)
        # The gate belongs to the block, not to the question which activation is best.
        gate = jax.nn.sigmoid(dense(gate, self.filters, name="excite"))
        if y.shape != x.shape:
            x = conv(x, self.filters, 1, self.stride, name="shortcut_conv")
            x = batch_norm(x, train, name="shortcut_bn")
        return Activation(self.activation, name="act3")(y * gate[:, None, None, :] + x, train=train)


class SENet(nn.Module):
    """SE-Net 18 or 34: a stem, four stages of blocks, and a dense layer: (N, H, W, C) → (N, num_classes)."""

    depth: int
    num_classes: int
    activation: ActivationLike = "tanhexp"
    last_filters: int = 516
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        if self.depth not in BLOCKS:
            raise InputError(f"SENet depth must be 18 or 34; got {self.depth}")
        x = as_images(images, self.dtype)
        x = conv(x, 64, name="stem_conv")
        x = batch_norm(x, train, name="stem_bn")
        x = Activation(self.activation, name="stem_act")(x, train=train)
        for stage, (filters, blocks) in enumerate(zip((64, 128, 256, self.last_filters), BLOCKS[self.depth])):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Block(filters, stride, self.activation, name=f"stage{stage + 1}_block{block + 1}")(x, train=train)
        return dense(global_average_pool(x), self.num_classes, name="head").astype(jnp.float32)
