"""The mesh ("run", "data"): which device trains which run, and how many devices there are."""

import os
from collections.abc import Sequence
from math import prod
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from relujax.errors import InputError, check_count


def one_cpu_device_per_core(devices: int | None = None) -> None:
    """On a machine without accelerator, lets several small runs train at once, one per core.

    Two runs on two virtual devices finish sooner than one after another with all threads each. Has to come before JAX
    starts its devices; afterwards, as in a notebook, it changes nothing.
    """
    if devices is not None:
        check_count("devices", devices)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", devices or cores)
    except RuntimeError:
        return


def make_mesh(
    runs: int, devices: int | None = None, *, batch_size: int = 1, devices_per_run: int | None = None
) -> Mesh:
    """The mesh on which so many runs train at once, see `mesh_shape`.

    On the CPU of one machine no batch is split unless `devices_per_run` says so: a run alone has all cores anyway, and
    sooner done (784 – 8×128 – 10, batch 64, 200 steps on 2 cores: 0.23 s, split 0.35 s; ResNet-20, batch 128, 4 steps:
    3.7 and 4.1 s). Of several machines each gives `devices` of its own.
    """
    own, machines = jax.local_device_count(), jax.process_count()
    if devices is not None and not 1 <= devices <= own:
        raise InputError(f"--devices must be from 1 to {own}, the devices of this machine; got {devices}")
    available = [device for i in range(machines) for device in jax.local_devices(process_index=i)[:devices]]
    if devices_per_run is None and machines == 1 and available[0].platform == "cpu":
        devices_per_run = 1
    shape = mesh_shape(runs, len(available), batch_size, devices_per_run, machines)
    if prod(shape) < machines:
        raise InputError(
            f"{runs} run(s) with batches of {batch_size} fill {prod(shape)} of the {machines} machines: "
            f"take fewer, or a batch size that they divide, e.g. {-(-batch_size // machines) * machines}"
        )
    # As many of each machine, and those of a run side by side.
    chosen = [available[place * len(available) // prod(shape)] for place in range(prod(shape))]
    chosen = np.array(chosen).reshape(shape)
    return Mesh(chosen, ("run", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def mesh_shape(
    runs: int, devices: int, batch_size: int, devices_per_run: int | None = None, least: int = 1
) -> tuple[int, int]:
    """Places along "run", up to one per run, and devices of each along "data", which split its batches.

    By default no device is idle that could help: each place gets as many as there are and as divide the batch. Where
    that takes fewer than `least` devices (every machine has to take part) it is fewer places with more of them, if any
    number does: 5 runs on 8 machines are (4, 2).
    """
    if devices_per_run is not None:
        _check_split(batch_size, devices_per_run, devices)
        return min(runs, devices // devices_per_run), devices_per_run
    places = min(runs, devices)
    shape = places, max(_divisors(batch_size, devices // places))
    if prod(shape) < least:
        others = ((min(runs, devices // split), split) for split in _divisors(batch_size, devices))
        shape = next((other for other in others if prod(other) >= least), shape)
    return shape


def _check_split(batch_size: int, devices_per_run: int, devices: int) -> None:
    if not 1 <= devices_per_run <= devices:
        raise InputError(f"--devices-per-run must be from 1 to {devices}, the devices in use; got {devices_per_run}")
    if batch_size % devices_per_run:
        nearest = min(_divisors(batch_size, devices), key=lambda count: abs(count - devices_per_run))
        below = batch_size - batch_size % devices_per_run
        sizes = " or ".join(str(size) for size in (below, below + devices_per_run) if size)
        raise InputError(
            f"a batch of {batch_size} cannot be split over {devices_per_run} devices: "
            f"take --devices-per-run {nearest}, or a batch size of {sizes}"
        )


def _divisors(number: int, most: int) -> list[int]:
    return [count for count in range(1, most + 1) if number % count == 0]


def over_runs(mesh: Mesh) -> NamedSharding:
    """Arrays with a leading run axis, one share of it per place along "run"."""
    return NamedSharding(mesh, PartitionSpec("run"))


def over_batches(mesh: Mesh) -> NamedSharding:
    """Arrays with a run axis and then a batch axis, one share of both per device."""
    return NamedSharding(mesh, PartitionSpec("run", "data"))


def over_batch(mesh: Mesh) -> NamedSharding:
    """Arrays with a leading batch axis that all runs share, one share of it per place along "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_batch(batch: Any) -> Any:
    """The arrays of one run, each over the devices of that run along its leading axis; as they are without a mesh."""
    if "data" not in jax.sharding.get_abstract_mesh().axis_names:
        return batch
    return jax.lax.with_sharding_constraint(batch, PartitionSpec("data"))


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


def on_gpu(mesh: Mesh) -> bool:
    """Whether the mesh's devices are GPUs."""
    return mesh.devices.flat[0].platform == "gpu"
