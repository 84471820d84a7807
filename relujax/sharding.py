"""The mesh ("run", "data"): which device trains which run, and how many devices there are."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from relujax.errors import InputError


def one_cpu_device_per_core(devices: int | None = None) -> None:
    """On a machine without accelerator, lets several small runs train at once, one per core.

    Two runs on two virtual devices finish sooner than one after another with all threads each. Has to come before JAX
    starts its devices; afterwards, as in a notebook, it changes nothing.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", devices or cores)
    except RuntimeError:
        return


def make_mesh(runs: int, devices: int | None = None) -> Mesh:
    """A mesh with up to `runs` places along "run" and one along "data"."""
    available = jax.devices()
    if devices is not None and not 1 <= devices <= len(available):
        raise InputError(f"--devices must be from 1 to {len(available)}, the devices of this machine; got {devices}")
    chosen = available[: min(devices or len(available), runs)]
    return Mesh(np.array(chosen).reshape(-1, 1), ("run", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def over_runs(mesh: Mesh) -> NamedSharding:
    """Arrays with a leading run axis, one share of it per place along "run"."""
    return NamedSharding(mesh, PartitionSpec("run"))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batches_of_runs(seeds: Sequence[int], mesh: Mesh, *, alone: bool = False) -> list[tuple[int, ...]]:
    """`seeds` in groups that train at once, none with an idle place.

    An accelerator takes as many runs at once as divide evenly, then the rest; on CPU, where the runs of a device take
    turns anyway, small groups mean that less is lost when the process is killed. With `alone`, a run has its device to
    itself.
    """
    places = mesh.shape["run"]
    at_once = places if alone or on_cpu(mesh) else max(len(seeds) // places, 1) * places
    return [tuple(seeds[start : start + at_once]) for start in range(0, len(seeds), at_once)]


def on_cpu(mesh: Mesh) -> bool:
    """Whether the mesh's devices are CPU cores."""
    return mesh.devices.flat[0].platform == "cpu"
