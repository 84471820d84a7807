"""The convolutional networks of the ELU paper, Clevert et al., arXiv:1511.07289, sections 4.2, 4.3 and 4.4.

A network is a list of stacks, a stack a list of (layers, units, receptive field) as the paper writes them. Every stack
but the classifier, here `head`, stands in the tables below.

Deviation: padding is not given; SAME everywhere and max-pooling after stacks 1 to 5 only, which takes 32×32 to 1×1. On
larger images the logits are averaged over the map.
Deviation: initialization on CIFAR is not given; He-normal with fan-in and bias 0. The 1×1 classifier has no activation.
Deviation: where BatchNorm stands is not given; before every activation. The convolution keeps its bias.
Deviation: the order within a layer is not given; activation, then dropout, then the stack's pooling.
Deviation: the 18-layer net has 8 stacks but 7 dropout rates; stack 7 takes that of stack 6, the head has none.
Deviation: the ImageNet net's first stride and pyramid levels are not given; stride 1, and 4×4, 2×2 and 1×1 bins.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.dropout import check_rate
from relujax.errors import InputError
from relujax.initializers import he_normal, zero_bias
from relujax.layers import Activation, as_images, batch_norm, conv, dense, global_average_pool, max_pool

StackTable = tuple[tuple[int, int, int], ...]  # (layers, units, receptive field), …
Rates = tuple[tuple[float, ...], ...]  # for every stack, the dropout rate of each of its layers

ELUNET11_STACKS: tuple[StackTable, ...] = (  # section 4.2; then 1×100×1
    ((1, 192, 5),),
    ((1, 192, 1), (1, 240, 3)),
    ((1, 240, 1), (1, 260, 2)),
    ((1, 260, 1), (1, 280, 2)),
    ((1, 280, 1), (1, 300, 2)),
    ((1, 300, 1),),
)
ELUNET18_STACKS: tuple[StackTable, ...] = (  # section 4.3; then 1×100×1
    ((1, 384, 3),),
    ((1, 384, 1), (1, 384, 2), (2, 640, 2)),
    ((1, 640, 1), (3, 768, 2)),
    ((1, 768, 1), (2, 896, 2)),
    ((1, 896, 3), (2, 1024, 2)),
    ((1, 1024, 1), (1, 1152, 2)),
    ((1, 1152, 1),),
)
IMAGENET_STACKS: tuple[StackTable, ...] = (  # section 4.4; then 2×4096×FC, 1×1000×FC
    ((1, 96, 6),),
    ((3, 512, 3),),
    ((5, 768, 3),),
    ((3, 1024, 3),),
)


def on_last_layers(stacks: tuple[StackTable, ...], rates: tuple[float, ...]) -> Rates:
    """One rate per stack, for the last of its layers alone."""
    return tuple((0.0,) * (len(layers_of(stack)) - 1) + (rate,) for stack, rate in zip(stacks, rates, strict=True))


def on_all_layers(stacks: tuple[StackTable, ...], rates: tuple[float, ...]) -> Rates:
    """One rate per stack, for all of its layers."""
    return tuple((rate,) * len(layers_of(stack)) for stack, rate in zip(stacks, rates, strict=True))


def layers_of(stack: StackTable) -> list[tuple[int, int]]:
    """(units, receptive field) of every layer of the stack."""
    return [(units, field) for layers, units, field in stack for _ in range(layers)]


ELUNET11_DROPOUT = on_last_layers(ELUNET11_STACKS, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
# At first as in the 11-layer net; for the final 50k iterations on all layers of a stack; then for 40k more, times 1.5.
ELUNET18_DROPOUT_PHASES = (
    on_last_layers(ELUNET18_STACKS, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5)),
    on_all_layers(ELUNET18_STACKS, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5)),
    on_all_layers(ELUNET18_STACKS, (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.75)),
)


def check_dropout(network: str, dropout: Rates, stacks: tuple[StackTable, ...]) -> None:
    """Refuses rates that are not one for every layer of every stack before the head."""
    layers = [len(layers_of(stack)) for stack in stacks]
    if [len(rates) if isinstance(rates, tuple) else None for rates in dropout] != layers:
        raise InputError(
            f"{network} has stacks of {layers} layers and needs a tuple of dropout rates for each of them, e.g. "
            f"from on_last_layers or on_all_layers; got {dropout}"
        )
    for rate in sum(dropout, ()):
        check_rate(rate)


def spatial_pyramid_pool(x: Array, levels: tuple[int, ...] = (4, 2, 1)) -> Array:
    """The largest of each of n×n bins for every level n, (N, H, W, C) → (N, Σn² · C)  (He et al., arXiv:1406.4729)."""
    _, height, width, _ = x.shape
    maxima = [
        jnp.max(x[:, rows, columns], axis=(1, 2))
        for n in levels
        for rows in bins(height, n)
        for columns in bins(width, n)
    ]
    return jnp.concatenate(maxima, axis=-1)


def bins(size: int, n: int) -> list[slice]:
    """n slices that cover `size` pixels; they overlap where n does not divide it, and none is ever empty."""
    return [slice(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]


class Stack(nn.Module):
    """Layers of convolution, BatchNorm where wanted, activation and dropout: (N, H, W, C) → (N, H, W, units)."""

    stack: StackTable
    activation: ActivationLike
    batch_norm: bool
    rates: tuple[float, ...]  # one per layer

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        for layer, ((units, field), rate) in enumerate(zip(layers_of(self.stack), self.rates), start=1):
            x = conv(x, units, field, padding="SAME", kernel_init=he_normal, bias=zero_bias, name=f"conv{layer}")
            if self.batch_norm:
                x = batch_norm(x, train, name=f"bn{layer}")
            x = Activation(self.activation, name=f"act{layer}")(x, train=train)
            x = nn.Dropout(rate, deterministic=not train, name=f"dropout{layer}")(x)
        return x


class ELUNet11(nn.Module):
    """11 convolutions for CIFAR-100 (section 4.2); `dropout` has the rates of the six stacks before the head."""

    num_classes: int
    activation: ActivationLike = "elu"
    batch_norm: bool = False
    dropout: Rates = ELUNET11_DROPOUT
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        check_dropout("ELUNet11", self.dropout, ELUNET11_STACKS)
        x = as_images(images, self.dtype)
        for index, (stack, rates) in enumerate(zip(ELUNET11_STACKS, self.dropout), start=1):
            x = Stack(stack, self.activation, self.batch_norm, rates, name=f"stack{index}")(x, train=train)
            if index <= 5:
                x = max_pool(x, padding="SAME")
        x = conv(x, self.num_classes, 1, kernel_init=he_normal, bias=zero_bias, name="head")
        return global_average_pool(x.astype(jnp.float32))


class ELUNet18(nn.Module):
    """18 convolutions and a 1×1 classifier for CIFAR-10 and CIFAR-100 (section 4.3).

    `dropout` has the rates of the seven stacks before the head: one of `ELUNET18_DROPOUT_PHASES` after the other.
    """

    num_classes: int
    activation: ActivationLike = "elu"
    batch_norm: bool = False
    dropout: Rates = ELUNET18_DROPOUT_PHASES[0]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        check_dropout("ELUNet18", self.dropout, ELUNET18_STACKS)
        x = as_images(images, self.dtype)
        for index, (stack, rates) in enumerate(zip(ELUNET18_STACKS, self.dropout), start=1):
            x = Stack(stack, self.activation, self.batch_norm, rates, name=f"stack{index}")(x, train=train)
            if index <= 5:
                x = max_pool(x, padding="SAME")
        x = conv(x, self.num_classes, 1, kernel_init=he_normal, bias=zero_bias, name="head")
        return global_average_pool(x.astype(jnp.float32))


class ELUNetImageNet(nn.Module):
    """15 layers for 224×224 crops (section 4.4): 12 convolutions, a spatial pyramid and three dense layers."""

    num_classes: int
    activation: ActivationLike = "elu"
    batch_norm: bool = False
    dropout: float = 0.5  # on both dense layers of 4096 units
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        check_rate(self.dropout)
        x = as_images(images, self.dtype)
        for index, stack in enumerate(IMAGENET_STACKS, start=1):
            rates = (0.0,) * len(layers_of(stack))
            x = Stack(stack, self.activation, self.batch_norm, rates, name=f"stack{index}")(x, train=train)
            x = max_pool(x, padding="SAME")
        x = spatial_pyramid_pool(x)
        for layer in (1, 2):
            x = dense(x, 4096, kernel_init=he_normal, name=f"dense{layer}")
            if self.batch_norm:
                x = batch_norm(x, train, name=f"bn{layer}")
            x = Activation(self.activation, name=f"act{layer}")(x, train=train)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{layer}")(x)
        return dense(x, self.num_classes, kernel_init=he_normal, name="head").astype(jnp.float32)
