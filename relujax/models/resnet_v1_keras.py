"""ResNet-20 and -32 of the TanhExp paper, Liu & Di, arXiv:2003.09855, sections 4.4 and 4.5, as in Keras' example.

Deviation: the paper does not say which ResNet it trained; its ReLU and Mish numbers are those published for Mish with
"ResNet v1", the name of Keras' CIFAR-10 example.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.initializers import he_normal, zero_bias
from relujax.layers import Activation, as_images, batch_norm, blocks_per_stage, conv, dense, global_average_pool, settle


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut: (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters).

    At a change of stage the shortcut is a 1×1 convolution without BatchNorm. Padding is "SAME" because Keras' "same"
    pads an even image at stride 2 on the right and at the bottom only; a pixel on every border would shift the grid.
    """

    filters: int
    stride: int
    activation: ActivationLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = conv(x, self.filters, 3, self.stride, padding="SAME", kernel_init=he_normal, bias=zero_bias, name="conv1")
        y = batch_norm(y, train, momentum=0.99, epsilon=1e-3, name="bn1")
        y = Activation(self.activation, name="act1")(y, train=train)
        y = conv(y, self.filters, padding="SAME", kernel_init=he_normal, bias=zero_bias, name="conv2")
        y = batch_norm(y, train, momentum=0.99, epsilon=1e-3, name="bn2")
        if self.stride > 1:
            x = conv(x, self.filters, 1, self.stride, kernel_init=he_normal, bias=zero_bias, name="shortcut")
        return Activation(self.activation, name="act2")(settle(x + y), train=train)


class ResNetV1Keras(nn.Module):
    """6n + 2 layers: a stem, three stages of n blocks with 16, 32 and 64 filters, and a dense layer."""

    depth: int
    num_classes: int
    activation: ActivationLike = "relu"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        blocks = blocks_per_stage("ResNetV1Keras", self.depth, layers_per_block=2)
        x = as_images(images, self.dtype)
        x = conv(x, 16, padding="SAME", kernel_init=he_normal, bias=zero_bias, name="stem_conv")
        x = batch_norm(x, train, momentum=0.99, epsilon=1e-3, name="stem_bn")
        x = Activation(self.activation, name="stem_act")(x, train=train)
        for stage, filters in enumerate((16, 32, 64)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                x = Block(filters, stride, self.activation, name=name)(x, train=train)
        x = global_average_pool(x)
        return dense(x, self.num_classes, kernel_init=he_normal, name="head").astype(jnp.float32)
