"""The layers that networks are built from, and the one place where a nonlinearity is applied.

Every network draws its nonlinearities through `Activation`, so the sites of any network can be counted and watched. The
other layers are functions to call inside `nn.compact`: they compute in the dtype of `x`, with float32 parameters and
BatchNorm statistics.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from relujax.activations import ActivationLike, get_activation, identity
from relujax.convolution import convolve
from relujax.errors import InputError
from relujax.initializers import zero_bias

Shape = tuple[int, ...]
Bias = Callable[[int], Initializer]  # of the fan-in

LAYERS = (nn.Conv, nn.ConvTranspose, nn.Dense)  # what N counts in a ratio of N:M


class Activation(nn.Module):
    """Applies `function` where `on`, the identity elsewhere; a Linen module gets parameters of its own per site."""

    function: ActivationLike
    on: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        if not self.on:
            return x
        function = get_activation(self.function)
        if isinstance(function, nn.Module):
            # The network's own field is one bound object: without the clone every site would share its parameters.
            return settle(function.clone(parent=self, name="own")(x, train=train))
        return settle(function(x))


def as_images(images: Array, dtype: DTypeLike, *, smallest: int = 8) -> Array:
    """`images` in the dtype of the computation; refuses what is not (N, H, W, C), not normalised or too small."""
    if images.ndim != 4:
        raise InputError(f"images must have shape (N, H, W, C), e.g. (128, 32, 32, 3); got {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images must be normalised floats, e.g. Data.normalize(images); got {images.dtype}")
    if min(images.shape[1:3]) < smallest:
        raise InputError(f"images must be at least {smallest}×{smallest}; got {images.shape[1]}×{images.shape[2]}")
    return images.astype(dtype)


def blocks_per_stage(network: str, depth: int, layers_per_block: int) -> int:
    """n of three equal stages between stem and head: depth = 3 · layers_per_block · n + 2, else refused."""
    step = 3 * layers_per_block
    n, rest = divmod(depth - 2, step)
    if n < 1 or rest:
        below = max(n, 1) * step + 2
        raise InputError(f"{network} depth must be {step}n + 2, near yours {below} or {below + step}; got {depth}")
    return n


def conv(
    x: Array,
    filters: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    padding: int | str | None = None,
    kernel_init: Initializer,
    bias: Bias | None = None,
    name: str,
) -> Array:
    """A k×k convolution, (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters).

    `padding` is that of every border, by default (k − 1) / 2 as in Torch. "SAME" would pad an even image at stride 2 on
    the right only.
    """
    if padding is None:
        padding = (kernel - 1) // 2
    fan_in = kernel * kernel * x.shape[-1] // groups
    return nn.Conv(
        filters,
        (kernel, kernel),
        stride,
        padding=padding,
        feature_group_count=groups,
        use_bias=bias is not None,
        kernel_init=kernel_init,
        bias_init=(bias or zero_bias)(fan_in),
        dtype=x.dtype,
        conv_general_dilated=convolve,
        name=name,
    )(x)


def dense(x: Array, features: int, *, kernel_init: Initializer, bias: Bias = zero_bias, name: str) -> Array:
    """x · W + b, (…, C) → (…, features)."""
    bias_init = bias(x.shape[-1])
    return nn.Dense(features, kernel_init=kernel_init, bias_init=bias_init, dtype=x.dtype, name=name)(x)


def batch_norm(x: Array, train: bool, *, momentum: float = 0.9, epsilon: float = 1e-5, name: str) -> Array:
    """Normalises each channel over the batch while training, by running statistics otherwise; defaults are Torch's.

    `momentum` is the share of the old statistics: 0.9 is what Torch writes as 0.1.

    Deviation: BatchNorm's running variance is that of the batch, as in MXNet and Keras; Torch's is n/(n−1) times that.
    """
    norm = nn.BatchNorm(use_running_average=not train, momentum=momentum, epsilon=epsilon, dtype=x.dtype, name=name)
    return norm(x)


def pad_shortcut(x: Array, filters: int, stride: int) -> Array:
    """Every `stride`-th pixel, then channels of zeros up to `filters`  (type A of He et al. 2015, arXiv:1512.03385)."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, filters - x.shape[-1])))


def max_pool(x: Array, padding: Literal["VALID", "SAME"] = "VALID") -> Array:
    """The largest of every 2×2 pixels, (N, H, W, C) → (N, H/2, W/2, C); the gradient goes to the first of equal ones.

    H and W are rounded down, with "SAME" up. Two comparisons: on CPU the gradient of XLA's own pooling takes 20 times
    as long.
    """
    for axis in (2, 1):
        if padding == "SAME" and x.shape[axis] % 2:
            x = jnp.pad(x, [(0, int(i == axis)) for i in range(4)], constant_values=-jnp.inf)
        end = x.shape[axis] // 2 * 2
        first, second = (lax.slice_in_dim(x, start, end, 2, axis) for start in (0, 1))
        x = jnp.where((first >= second) | jnp.isnan(first), first, second)
    return x


def global_average_pool(x: Array) -> Array:
    """(N, H, W, C) → (N, C)."""
    return jnp.mean(x, axis=(1, 2))


def flatten(x: Array) -> Array:
    """(N, H, W, C) → (N, H·W·C)."""
    return x.reshape(x.shape[0], -1)


def settle(x: Array) -> Array:
    """x, kept as it is: without a barrier XLA's CPU backend computes sums and activations anew in each gradient.

    It would fold the whole chain of residual sums below a convolution into that convolution's filter gradient, so that
    a step's time grew with the square of the depth.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


@contextmanager
def remat_blocks() -> Iterator[None]:
    """Gradients taken within keep what goes from block to block only, and compute the rest again, block by block.

    A block is a module directly below the network that is more than one layer  (Chen et al. 2016, arXiv:1604.06174).
    """
    within: set[tuple[str, ...]] = set()

    def around(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        block, path = context.module, context.module.path
        single = isinstance(block, (*LAYERS, nn.BatchNorm, nn.Dropout, Activation))
        if context.method_name != "__call__" or len(path) != 1 or single or path in within:
            return call(*args, **kwargs)

        def again(block: nn.Module, *args: Any) -> Any:
            within.add(path)
            try:
                return block(*args, **kwargs)  # which comes by here once more
            finally:
                within.discard(path)

        return nn.remat(again)(block, *args)

    with nn.intercept_methods(around):
        yield


def watch(model: nn.Module, variables: Any, images: Array) -> dict[str, Array]:
    """Every activation site's output on `images`, in the order of the sites: {"act1": (N, units), …}."""
    _, state = model.apply(
        variables,
        images,
        train=False,
        capture_intermediates=lambda module, _: _is_site(module),
        mutable=["intermediates"],
    )
    flat = jax.tree_util.tree_flatten_with_path(state["intermediates"])[0]
    outputs = {"/".join(str(key.key) for key in path[:-2]): value for path, value in flat}
    return {site: outputs[site] for site in _sites(model, images.shape)}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a network consists of, and what the forward pass of one image costs it."""

    parameters: int  # trainable
    layers: int  # convolution and dense ones
    sites: int  # places where an activation is applied
    multiply_adds: int  # of convolution and dense layers: H' · W' · C' · k² · C / groups, and C' · C
    activation_bytes: int  # outputs of convolution, dense, BatchNorm and activation layers: what a gradient may need


def count(model: nn.Module, images_shape: Shape) -> Counts:
    """All counts of a network for images of shape (N, H, W, C), by one trace; nothing is allocated."""
    variables, calls = _trace(model, images_shape)
    images = images_shape[0]
    layers = [call for call in calls if isinstance(call.module, LAYERS)]
    return Counts(
        parameters=sum(prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {}))),
        layers=len(layers),
        sites=sum(_is_site(call.module) for call in calls),
        multiply_adds=sum(map(_multiply_adds, layers)) // images,
        activation_bytes=sum(call.output.size * call.output.dtype.itemsize for call in calls) // images,
    )


def count_parameters(model: nn.Module, images_shape: Shape) -> int:
    """Number of trainable parameters for images of shape (N, H, W, C), by tracing."""
    return count(model, images_shape).parameters


def count_layers(model: nn.Module, images_shape: Shape) -> int:
    """Number of convolution and dense layers for images of shape (N, H, W, C), by tracing."""
    return count(model, images_shape).layers


def count_sites(model: nn.Module, images_shape: Shape) -> int:
    """Number of places where an activation is applied to images of shape (N, H, W, C), by tracing."""
    return count(model, images_shape).sites


def ratio(model: nn.Module, images_shape: Shape) -> tuple[int, int]:
    """(convolution and dense layers, activation sites), the N:M of the proportional-module papers, by tracing."""
    found = count(model, images_shape)
    return found.layers, found.sites


def is_convolutional(model: nn.Module, images_shape: Shape) -> bool:
    """Whether the network has a convolution for images of shape (N, H, W, C), by tracing."""
    return any(isinstance(call.module, nn.Conv | nn.ConvTranspose) for call in _trace(model, images_shape)[1])


class _Call(NamedTuple):
    """A layer at work: its module, where it stands, and the shapes that it takes and gives."""

    module: nn.Module
    path: str
    taken: Shape
    output: jax.ShapeDtypeStruct


def _sites(model: nn.Module, images_shape: Shape) -> list[str]:
    return [call.path for call in _trace(model, images_shape)[1] if _is_site(call.module)]


def _is_site(module: nn.Module) -> bool:
    return isinstance(module, Activation) and module.on and get_activation(module.function) is not identity


def _multiply_adds(call: _Call) -> int:
    layer = call.module
    if isinstance(layer, nn.Dense):
        return call.output.size * call.taken[-1]
    assert isinstance(layer, nn.Conv | nn.ConvTranspose)
    kernel = prod(np.atleast_1d(layer.kernel_size).tolist())
    if isinstance(layer, nn.ConvTranspose):
        return prod(call.taken) * kernel * layer.features
    return call.output.size * kernel * call.taken[-1] // layer.feature_group_count


def _trace(model: nn.Module, images_shape: Shape) -> tuple[Any, list[_Call]]:
    """The shapes of the variables, and the calls of the layers that count, in their order."""
    key, images = jax.random.key(0), jax.ShapeDtypeStruct(images_shape, "float32")
    calls: list[_Call] = []

    def note(call, args, kwargs, context):
        output, layer = call(*args, **kwargs), context.module
        if context.method_name == "__call__" and (isinstance(layer, (*LAYERS, nn.BatchNorm)) or _is_site(layer)):
            shape = jax.ShapeDtypeStruct(output.shape, output.dtype)
            calls.append(_Call(layer, "/".join(layer.path), args[0].shape, shape))
        return output

    with nn.intercept_methods(note):
        return jax.eval_shape(lambda images: model.init(key, images, train=False), images), calls
