"""Gates between an activation and the identity: where a network should be nonlinear, learned together with its weights.

`MLP(…, activation=Gated("relu"))` has a gate at every site. While gates are trained they mix both; afterwards
`OpenLargest` fixes the placement that they have found, and `OpenRandom` one that nothing was learned about.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from relujax.activations import ActivationLike, get_activation
from relujax.errors import InputError

STEEPNESS = 10.0  # Adam moves a gate by no more than the learning rate in a step, which alone would take too long
OPEN = 10.0  # sigmoid(±100) is 1 and 0 in float32, and its derivative 0: such a gate stays where it is


def openness(gate: Array) -> Array:
    """sigmoid(10 · gate): the share of the activation, 0 to 1."""
    return nn.sigmoid(STEEPNESS * gate)


class Gated(nn.Module):
    """g · f(x) + (1 − g) · x with g = sigmoid(10 · gate) and one trained gate per site, which starts at 0: half open.

    With ReLU that is a leaky ReLU of slope 1 − g  (the two-way case of DARTS' mixture, Liu et al., arXiv:1806.09055).
    """

    function: ActivationLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        function = get_activation(self.function)
        if isinstance(function, nn.Module):
            raise InputError(f"a gate needs an activation without parameters, e.g. 'relu'; got {self.function!r}")
        y = function(x)
        if y.shape != x.shape:
            raise InputError(f"a gate needs an activation that keeps the shape, e.g. 'relu'; got {self.function!r}")
        share = openness(self.param("gate", nn.initializers.zeros, ())).astype(x.dtype)
        return share * y + (1 - share) * x


@dataclass(frozen=True)
class OpenLargest:
    """Opens the sites of the `count` largest gates of the earlier phase for good and shuts the others."""

    count: int

    def __call__(self, params: Any, earlier: Any, seed: Array) -> Any:
        if earlier is None:
            raise InputError("OpenLargest needs an earlier phase that has learned the gates: Trial(start_from=…)")
        gates = jnp.stack(gates_of(earlier))
        _check_count(self.count, gates.size)
        places = jnp.argsort(jnp.argsort(-gates))  # of each gate, the largest first
        return _fixed(params, places < self.count)


@dataclass(frozen=True)
class OpenRandom:
    """Opens `count` sites for good, which ones is drawn from the run's seed, and shuts the others."""

    count: int

    def __call__(self, params: Any, earlier: Any, seed: Array) -> Any:
        sites = len(gates_of(params))
        _check_count(self.count, sites)
        key = jax.random.fold_in(jax.random.key(seed), 1)  # not of weights, order or steps, which split the key itself
        return _fixed(params, jax.random.permutation(key, sites) < self.count)


@dataclass(frozen=True)
class OpenThese:
    """Opens the sites that are flagged for good and shuts the others; sites are in the order of their names."""

    flags: tuple[bool, ...]

    def __call__(self, params: Any, earlier: Any, seed: Array) -> Any:
        sites = len(gates_of(params))
        if len(self.flags) != sites:
            raise InputError(f"the network has {sites} gates, which need a flag each; got {len(self.flags)} flags")
        return _fixed(params, jnp.array(self.flags))


# (fresh params, those of the phase before or None, seed) → the params to begin with.
Begin = OpenLargest | OpenRandom | OpenThese


def gates_of(params: Any) -> list[Array]:
    """The gates of a network, () each, in the order of their names."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if _is_gate(path)]


def _is_gate(path: tuple[Any, ...]) -> bool:
    return path[-1].key == "gate"


def _fixed(params: Any, opened: Array) -> Any:
    values = iter(jnp.where(opened, OPEN, -OPEN).astype(jnp.float32))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: next(values) if _is_gate(path) else leaf, params)


def _check_count(count: int, sites: int) -> None:
    if not 0 <= count <= sites:
        raise InputError(f"the network has {sites} gates, of which 0 to {sites} can be open; got {count}")
