"""Residual network with ELU in place of ReLU and BatchNorm, Shah et al. 2016, arXiv:1604.04112, section 3.2, Fig. 3.

Deviation: the stem is not described; conv-ELU without BN, as ELU stands for ReLU and BN together, and conv alone where
the blocks begin with ELU.
Deviation: shortcuts keep every other pixel and add channels of zeros (type A), the default of Facebook's Torch code
whose words the paper uses; its initializer and lack of convolution biases are taken from there, too.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.errors import check_choice
from relujax.initializers import he_normal_fan_out, torch_uniform
from relujax.layers import (
    Activation,
    as_images,
    batch_norm,
    blocks_per_stage,
    conv,
    dense,
    global_average_pool,
    pad_shortcut,
    settle,
)

BLOCKS = {
    "conv-elu-conv-elu": "Fig. 3a; its gradients explode",
    "elu-conv-elu-conv": "Fig. 3b; explodes, too",
    "conv-elu-conv-bn-elu": "Fig. 3c: ELU after the sum",
    "conv-elu-conv-bn": "Fig. 3d: the paper's",
}


class Block(nn.Module):
    """One of the four blocks of Fig. 3: (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters)."""

    filters: int
    stride: int
    activation: ActivationLike
    block: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = x
        if self.block == "elu-conv-elu-conv":
            y = Activation(self.activation, name="act0")(y, train=train)
        y = conv(y, self.filters, stride=self.stride, kernel_init=he_normal_fan_out, name="conv1")
        y = Activation(self.activation, name="act1")(y, train=train)
        y = conv(y, self.filters, kernel_init=he_normal_fan_out, name="conv2")
        if self.block == "conv-elu-conv-elu":
            y = Activation(self.activation, name="act2")(y, train=train)
        if self.block in ("conv-elu-conv-bn", "conv-elu-conv-bn-elu"):
            y = batch_norm(y, train, name="bn2")
        y = settle(y + pad_shortcut(x, self.filters, self.stride))
        return Activation(self.activation, on=self.block == "conv-elu-conv-bn-elu", name="act3")(y, train=train)


class ResNetELU(nn.Module):
    """6n + 2 layers: a stem, three stages of n blocks with 16, 32 and 64 filters, and a dense layer.

    An ELU stands before the pooling (section 4.1), except where the last block ends in one.
    """

    depth: int
    num_classes: int
    block: str = "conv-elu-conv-bn"
    activation: ActivationLike = "elu"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        check_choice("block", self.block, BLOCKS)
        blocks = blocks_per_stage("ResNetELU", self.depth, layers_per_block=2)
        x = as_images(images, self.dtype)
        x = conv(x, 16, kernel_init=he_normal_fan_out, name="stem_conv")
        x = Activation(self.activation, on=self.block != "elu-conv-elu-conv", name="stem_act")(x, train=train)
        for stage, filters in enumerate((16, 32, 64)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                x = Block(filters, stride, self.activation, self.block, name=name)(x, train=train)
        x = Activation(self.activation, on=self.block != "conv-elu-conv-bn-elu", name="final_act")(x, train=train)
        x = global_average_pool(x)
        return dense(x, self.num_classes, kernel_init=torch_uniform, name="head").astype(jnp.float32)
