"""The one place where a nonlinearity is applied, and what follows from it: sites can be counted and watched."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
from flax import linen as nn
from jax import Array

from relujax.activations import ActivationLike, get_activation, identity

Shape = tuple[int, ...]


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
            return function.clone(parent=self, name="own")(x, train=train)
        return function(x)


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


def count_parameters(model: nn.Module, images_shape: Shape) -> int:
    """Number of trainable parameters for images of shape (N, H, W, C); traced, nothing is allocated."""
    variables = _trace(model, images_shape)
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {})))


def count_layers(model: nn.Module, images_shape: Shape) -> int:
    """Number of convolution and dense layers for images of shape (N, H, W, C), by tracing."""
    return len(_calls(model, images_shape, lambda module: isinstance(module, nn.Conv | nn.ConvTranspose | nn.Dense)))


def count_sites(model: nn.Module, images_shape: Shape) -> int:
    """Number of places where an activation is applied to images of shape (N, H, W, C), by tracing."""
    return len(_sites(model, images_shape))


def ratio(model: nn.Module, images_shape: Shape) -> tuple[int, int]:
    """(convolution and dense layers, activation sites), the N:M of the proportional-module papers, by tracing."""
    return count_layers(model, images_shape), count_sites(model, images_shape)


def _sites(model: nn.Module, images_shape: Shape) -> list[str]:
    return _calls(model, images_shape, _is_site)


def _is_site(module: nn.Module) -> bool:
    return isinstance(module, Activation) and module.on and get_activation(module.function) is not identity


def _calls(model: nn.Module, images_shape: Shape, wanted: Callable[[nn.Module], bool]) -> list[str]:
    found: list[str] = []

    def note(call, args, kwargs, context):
        if context.method_name == "__call__" and wanted(context.module):
            found.append("/".join(context.module.path))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        _trace(model, images_shape)
    return found


def _trace(model: nn.Module, images_shape: Shape) -> Any:
    key, images = jax.random.key(0), jax.ShapeDtypeStruct(images_shape, "float32")
    return jax.eval_shape(lambda images: model.init(key, images, train=False), images)
