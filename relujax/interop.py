"""Weights to and from PyTorch, and safetensors files of them. Nothing here imports PyTorch.

PyTorch lists the layers as they are defined, Flax as they are called. Where the orders differ, or a file has lost its
own, `names` says which is which: {"layer1.0.conv1": "stage1_block1/conv1", …}. Layers of equal shape look alike, and
the bins of a spatial pyramid keep Flax's order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import Literal

from relujax.errors import InputError

Shape = tuple[int, ...]
Names = Mapping[str, str]  # PyTorch prefix → Flax path

# Of convolutions and dense layers, BatchNorm and PReLU: Flax's name of an array → PyTorch's.
LEAVES = {
    **dict.fromkeys(("kernel", "scale", "negative_slope"), "weight"),
    **{"bias": "bias", "mean": "running_mean", "var": "running_var"},
}
# (height, width, in, out) ↔ (out, in, height, width), by the number of axes.
TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
TO_FLAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
PICKLED = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
HINT = "pair the layers by hand with names={PyTorch prefix: Flax path, …}"


@dataclass(frozen=True)
class Leaf:
    """One array: its key and shape in Flax, and the (H, W, C) of the feature map that a dense kernel reads flattened.

    PyTorch flattens (C, H, W), hence the detour over four axes.
    """

    key: str  # "params/stem_conv/kernel"
    shape: Shape
    feature_map: Shape | None

    @property
    def torch_shape(self) -> Shape:
        return tuple(self.shape[axis] for axis in TO_TORCH[len(self.shape)])

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        if self.feature_map is not None:
            array = array.reshape(*self.feature_map, -1)
        array = array.transpose(TO_TORCH[array.ndim]).reshape(self.torch_shape)
        return np.array(array, order="C")  # a copy, since PyTorch shares the memory of what it is given

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        if self.feature_map is not None:
            height, width, channels = self.feature_map
            array = array.reshape(-1, channels, height, width)
        return array.transpose(TO_FLAX[array.ndim]).reshape(self.shape)


Layers = dict[str, dict[str, Leaf]]  # {"stem_conv": {"weight": …, "bias": …}, …}, in the order of the calls


def from_torch(
    model: nn.Module, state_dict: Mapping[str, Any], images_shape: Shape, *, names: Names | None = None
) -> dict[str, Any]:
    """{"params": …, "batch_stats": …} from {"conv1.weight": tensor or array, …}, for images of shape (N, H, W, C).

    A prefix is paired by `names`, or by itself where it is a Flax path with dots, or else by order.
    """
    layers = _layers(model, images_shape)
    groups: dict[str, dict[str, Any]] = {}
    for key, value in state_dict.items():
        prefix, _, name = key.rpartition(".")
        if name != "num_batches_tracked":  # a counter for PyTorch's momentum=None
            groups.setdefault(prefix, {})[name] = value
    variables = {}
    for prefix, path in _pair(groups, layers, names or {}).items():
        shapes = {name: tuple(np.shape(value)) for name, value in groups[prefix].items()}
        wanted = {name: leaf.torch_shape for name, leaf in layers[path].items()}
        if shapes != wanted:
            raise InputError(f"PyTorch's {prefix!r} has {shapes}, but {path!r} here needs {wanted}; {HINT}")
        for name, leaf in layers[path].items():
            variables[leaf.key] = jnp.array(leaf.to_flax(_numpy(groups[prefix][name])))
    return unflatten_dict(variables, sep="/")


def to_torch(
    model: nn.Module, variables: Mapping[str, Any], images_shape: Shape, *, names: Names | None = None
) -> dict[str, np.ndarray]:
    """A state_dict of float32 arrays in the order of the calls; prefixes are from `names` or Flax paths with dots."""
    layers = _layers(model, images_shape)
    flat: Any = flatten_dict({**variables}, sep="/")
    found = {key: np.shape(array) for key, array in flat.items()}
    wanted = {leaf.key: leaf.shape for leaves in layers.values() for leaf in leaves.values()}
    for key in [*wanted, *found]:
        have, need = found.get(key, "nothing"), wanted.get(key, "nothing")
        if have != need:
            raise InputError(
                f"{key!r}: this network has {need}, the variables have {have}; are they of another network?"
            )
    prefixes = {path: path.replace("/", ".") for path in layers} | {path: name for name, path in (names or {}).items()}
    return {
        f"{prefixes[path]}.{name}": leaf.to_torch(_numpy(flat[leaf.key]))
        for path, leaves in layers.items()
        for name, leaf in leaves.items()
    }


def save_safetensors(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Writes {"conv1.weight": array, …}; the file sorts them by name."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(_numpy(array)) for name, array in arrays.items()}, path)


def load_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by name; refuses a pickled file, because opening one can run any code."""
    path = Path(path)
    if path.suffix.lower() in PICKLED:
        raise InputError(
            f"{path} is pickled; convert to safetensors first: safetensors.torch.save_file("
            f"torch.load('{path}', weights_only=True), '{path.with_suffix('.safetensors')}')"
        )
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from error


def _pair(groups: Mapping[str, Any], layers: Layers, names: Names) -> dict[str, str]:
    """{PyTorch prefix: Flax path}, one to one."""
    for prefix, path in names.items():
        if prefix not in groups or path not in layers:
            known = f"PyTorch has {_some(groups)}, the network {_some(layers)}"
            raise InputError(f"names pairs {prefix!r} with {path!r}, but {known}")
    paths = {prefix: names.get(prefix, prefix.replace(".", "/")) for prefix in groups}
    paired = {prefix: path for prefix, path in paths.items() if path in layers}
    rest = [prefix for prefix in groups if prefix not in paired]
    free = [path for path in layers if path not in paired.values()]
    if len(rest) != len(free) or len(groups) != len(layers):
        raise InputError(f"PyTorch's layers left to pair are {_some(rest)}, the network's {_some(free)}; {HINT}")
    # safetensors sorts by name, PyTorch does not: its weight stands before its bias.
    keys = [f"{prefix}.{name}" for prefix, group in groups.items() for name in group]
    if len(rest) > 1 and keys == sorted(keys):
        raise InputError(f"the arrays are sorted by name, so the order of {_some(rest)} is lost; {HINT}")
    return paired | dict(zip(rest, free))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)}: {', '.join(names[:4])}{', …' * (len(names) > 4)}"


def _numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor, on any device
        value = value.detach().cpu().float().numpy()
    return np.asarray(value, np.float32)


def _layers(model: nn.Module, images_shape: Shape) -> Layers:
    """The layers with weights in the order in which the traced network first reads them; nothing is allocated."""
    # Two images, so that a value per image and a parameter never have the same number of elements.
    images = jax.ShapeDtypeStruct((2, *images_shape[1:]), "float32")
    variables = jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)
    network = jax.make_jaxpr(lambda variables, images: model.apply(variables, images, train=False))
    graph = network(variables, images).jaxpr
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    shapes = {"/".join(part.key for part in path): leaf.shape for path, leaf in leaves}
    keys = dict(zip(graph.invars, shapes))
    made_by = {array: equation for equation in graph.eqns for array in equation.outvars}

    def inputs(equation: Any) -> list[Any]:
        return [array for array in equation.invars if not isinstance(array, Literal)]

    def feature_map(array: Any) -> Shape | None:
        """The (H, W, C) that `array` is a flattening of, whatever happened to each element since."""
        if array.aval.ndim == 4:
            return array.aval.shape[1:]
        if array not in made_by or made_by[array].primitive.name == "dot_general":
            return None
        same_size = [source for source in inputs(made_by[array]) if source.aval.size == array.aval.size]
        return next(filter(None, map(feature_map, same_size)), None)

    reads: dict[str, Shape | None] = {}
    order: dict[str, None] = {}
    for equation in graph.eqns:
        for key in [keys[array] for array in inputs(equation) if array in keys]:
            order[key.partition("/")[2].rpartition("/")[0]] = None
        if equation.primitive.name == "dot_general":
            features, kernel = equation.invars
            while kernel in made_by:  # a change of dtype
                kernel = made_by[kernel].invars[0]
            reads[keys[kernel]] = feature_map(features) if features.aval.ndim == 2 else None

    layers: Layers = {path: {} for path in order}
    for name in LEAVES:  # weight before bias, as PyTorch has them
        for key in [key for key in shapes if key.endswith(f"/{name}")]:
            path = key.partition("/")[2].rpartition("/")[0]
            layers[path][LEAVES[name]] = Leaf(key, shapes[key], reads.get(key))
            if name == "kernel" and len(shapes[key]) == 2 and key not in reads:
                raise InputError(f"{key!r} is used inside a transformation such as nn.remat, which hides what it reads")
    if unknown := [key for key in shapes if key.rpartition("/")[2] not in LEAVES]:
        raise InputError(
            f"PyTorch has no layer for {unknown}; convolutions, dense layers, BatchNorm and PReLU have one"
        )
    return layers
