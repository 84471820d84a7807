"""Trial and run: one row of a table as pure data, its identity, and what one seed of it gave."""

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flax import linen as nn

from relujax.activations import ACTIVATIONS, SHIPPED
from relujax.data import Data
from relujax.errors import InputError
from relujax.gates import Begin
from relujax.probes import Probe
from relujax.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row: a network, its data, how it is trained, and what is measured after each epoch."""

    model: nn.Module
    data: Data
    recipe: Recipe
    probes: tuple[Probe, ...] = ()
    start_from: "Trial | None" = None  # begins with that trial's final weights, same seed: a fine-tuning phase
    begin: Begin | None = None  # begins with fresh weights and these gates instead, which may be of the trial before


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A trial with one seed: its curves, one value per epoch, and the circumstances of the run."""

    trial_id: str
    seed: int
    status: Literal["done", "diverged", "unfinished"]
    diverged_at_step: int | None = None
    failure: str = ""  # the error that stopped an unfinished run
    history: tuple[Mapping[str, float], ...] = ()
    unit_values: Mapping[str, np.ndarray] = field(default_factory=dict)  # probe → (epochs, units)
    environment: Mapping[str, Any] = field(default_factory=dict)  # versions, device, dataset digest, flags

    def curve(self, metric: str) -> np.ndarray:
        """`metric` after each epoch, (epochs,); nan where an epoch has no value of it. Accuracy is 1 − error."""
        if metric.endswith("_accuracy"):
            return 1 - self.curve(metric.replace("_accuracy", "_error"))
        return np.array([epoch.get(metric, np.nan) for epoch in self.history])

    def last(self, metric: str) -> float:
        """`metric` after the last epoch."""
        return self.at(metric, "last")

    def at(self, metric: str, epoch: Literal["last", "best"]) -> float:
        """`metric` after the last epoch, or its best value over epochs: the smallest, of an accuracy the largest."""
        curve = self.curve(metric)
        if not len(curve) or np.isnan(curve).all():
            return float("nan")
        if epoch == "last":
            return float(curve[-1])
        return float(np.nanmax(curve) if metric.endswith("_accuracy") else np.nanmin(curve))


def is_share(metric: str) -> bool:
    """Whether the metric is a share of the images, which is printed in percent."""
    return metric.endswith(("_error", "_accuracy")) and metric.startswith(("train_", "validation_", "test_"))


def describe(value: Any) -> Any:
    """`value` as JSON data: dataclasses and modules by class name and fields, functions by their registered name.

    A field that is None is left out, so that a new option that is off does not change what existing runs are called.
    What is not relujax's own has a digest of its code beside its name: another formula or network is another run.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hidden = ("parent", "name") if isinstance(value, nn.Module) else ()
        named = [f.name for f in dataclasses.fields(value) if f.compare and f.name not in hidden]
        fields = {name: getattr(value, name) for name in named}
        return {**_class(type(value)), **{k: describe(v) for k, v in fields.items() if v is not None}}
    if isinstance(value, functools.partial):
        if value.args:
            raise InputError(
                f"constants of an activation are given by name, as in partial(elu, alpha=0.5); got {value}"
            )
        return {"function": describe(value.func), **describe(value.keywords)}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if isinstance(value, str) and value in ACTIVATIONS:
        return _registered(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    for name, function in ACTIVATIONS.items():
        if function is value:
            return _registered(name)
    if isinstance(value, type) and issubclass(value, nn.Module):
        raise InputError(f"{value.__name__} is a class: give an instance, {value.__name__}(), or its registered name")
    try:
        return np.dtype(value).name
    except TypeError:
        raise InputError(
            f"{value!r} has no registered name, so the run could not be recognised when it is resumed: "
            "add the function to relujax.activations.ACTIVATIONS, or use functools.partial of one that is there"
        ) from None


def _class(own: type) -> dict[str, str]:
    if own.__module__.partition(".")[0] in ("relujax", "experiments"):
        return {"class": own.__name__}
    return {"class": own.__name__, "code": _digest(own)}


def _registered(name: str) -> Any:
    function = ACTIVATIONS[name]
    if SHIPPED.get(name) is function:
        return name
    code = describe(function) if isinstance(function, functools.partial) else _digest(function)
    return {"function": name, "code": code}


def _digest(own: Any) -> str:
    """A hash of what a function or class computes; of a library's, its name."""
    if _of_a_library(own):
        return f"{own.__module__}.{own.__qualname__}"
    parts = [own]
    if isinstance(own, type):  # methods of its author, inherited ones too: __init__ and its like follow from the fields
        written = [(base, name) for base in own.__mro__ if not _of_a_library(base) for name in sorted(vars(base))]
        named = [vars(base)[name] for base, name in written if name == "__call__" or not name.startswith("__")]
        parts = [part for part in named if inspect.isfunction(part)]
    content = repr([_plain(inspect.unwrap(part)) for part in parts])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _of_a_library(own: Any) -> bool:
    libraries = ("jax", "jaxlib", "flax", "optax", "builtins", "typing")
    return getattr(own, "__module__", "").partition(".")[0] in libraries


def _plain(value: Any) -> Any:
    """A function, or a constant in it, as data that are the same in every process that gets it.

    Of code, not of its text, which a Ray task has not. Another minor version of Python has other code.
    """
    if inspect.isfunction(value):
        closed_over = [cell.cell_contents for cell in value.__closure__ or ()]
        inner = [_plain(each.__code__ if inspect.isfunction(each) else each) for each in closed_over]
        return [_plain(each) for each in (value.__code__, value.__defaults__, value.__kwdefaults__)], inner
    if inspect.iscode(value):
        return value.co_code.hex(), value.co_names, [*map(_plain, value.co_consts)]
    if isinstance(value, Mapping):
        return [(name, _plain(each)) for name, each in value.items()]
    if isinstance(value, tuple | list):
        return [*map(_plain, value)]
    if isinstance(getattr(value, "dtype", None), np.dtype):  # an array of NumPy or JAX
        array = np.asarray(value)
        return array.dtype.name, array.shape, hashlib.sha256(array.tobytes()).hexdigest()
    if isinstance(value, frozenset):  # its order is another one in every process
        return sorted(map(repr, value))
    plain = value is None or isinstance(value, str | bytes | int | float | complex)
    return repr(value) if plain else type(value).__name__


def trial_id(trial: Trial) -> str:
    """Class of the network and a hash of the trial as canonical JSON: equal trials are the same run."""
    canonical = json.dumps(describe(trial), sort_keys=True)
    return f"{type(trial.model).__name__}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """The fields in which two descriptions differ, e.g. ["recipe.length.count: 300, now 20"]."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = dict.fromkeys([*theirs, *ours])
        parts = [differences(ours.get(key), theirs.get(key), f"{path}.{key}" if path else key) for key in keys]
        return [line for part in parts for line in part]
    return [] if ours == theirs else [f"{path}: {_shown(theirs)}, now {_shown(ours)}"]


def _shown(described: Any) -> str:
    return str(described.get("class", "{…}")) if isinstance(described, Mapping) else json.dumps(described)
