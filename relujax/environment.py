"""The circumstances of a result: versions, device, dataset and flags, recorded beside it."""

import ast
import datetime
import hashlib
import importlib
import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from relujax.datasets import Dataset, cache_home

PACKAGES = ("relujax", "jax", "jaxlib", "flax", "optax", "numpy")
# What computes in every run, beside its network's own file.
COMPUTES = (
    "activations",
    "initializers",
    "placement",
    "gates",
    "dropout",
    "convolution",
    "layers",
    "data",
    "recipe",
    "probes",
    "train",
)


def environment(
    dataset: Dataset | None = None,
    runs_at_once: int | None = None,
    mesh: Mesh | None = None,
    model: nn.Module | None = None,
) -> dict[str, Any]:
    """What a reader needs to know to compare two results, as JSON data."""
    device = jax.devices()[0]
    return {
        **({} if dataset is None else {"dataset": dataset.label, "dataset_digest": dataset.digest}),
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        **({} if runs_at_once is None else {"runs_at_once": runs_at_once}),
        **({} if mesh is None else {"mesh": dict(mesh.shape)}),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        **({} if model is None else {"code": code_of(model)}),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": "highest",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def code_of(model: nn.Module) -> str:
    """A hash of relujax's code that trains a network, as syntax: comments, docstrings and layout do not count.

    Nor does the version of Python, whose trees have more and more fields that are empty.
    """
    own = [type(model).__module__] if type(model).__module__.startswith("relujax.") else []
    return _code((*(f"relujax.{name}" for name in COMPUTES), *own))


@cache
def _code(modules: tuple[str, ...]) -> str:
    sha = hashlib.sha256()
    files = [getattr(importlib.import_module(name), "__file__", None) for name in modules]
    for file in filter(None, files):  # a network may have been written in a notebook
        tree = ast.parse(Path(file).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        sha.update(repr(_nested(tree)).encode())
    return sha.hexdigest()[:12]


def _nested(syntax: Any) -> Any:
    """A syntax tree as tuples of names and values, without the fields that hold nothing."""
    if isinstance(syntax, ast.AST):
        filled = ((name, _nested(value)) for name, value in ast.iter_fields(syntax) if value not in (None, []))
        return type(syntax).__name__, tuple(filled)
    return [_nested(one) for one in syntax] if isinstance(syntax, list) else syntax


def keep_compiled_programs() -> None:
    """Lets what takes a second or more to compile outlive the process, unless JAX was told where to keep it already.

    A run that goes on after a preemption, and a second call of a study, start training at once.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "compiled"))


def _processor() -> str:
    """The CPU's name as Linux tells it, else what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # used from a checkout that was never installed
        return "not installed"
