"""Several processes that train together, as on a TPU pod or in a Slurm job: start, agree, share arrays, end.

Each runs the same program on its own devices. Process 0 alone touches the workdir: it writes records, checkpoints and
reports, and hands what it restores to the others. So these need nothing but the dataset.
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from relujax import preemption
from relujax.errors import InputError
from relujax.preemption import Preempted


@contextmanager
def joined(coordinator: str | None, processes: int | None, process: int | None, timeout: float) -> Iterator[None]:
    """Waits for the other processes, and makes all their devices those of JAX; has to come before JAX starts its own.

    Without `coordinator` (HOST:PORT of process 0) and the rest, JAX finds them out from the TPU pod, Slurm, Open MPI or
    Kubernetes. A process that is silent for `timeout` seconds ends the others, as does one that fails.
    """
    given = (coordinator, processes, process)
    if None in given and given != (None, None, None):
        raise InputError("--coordinator, --processes and --process go together, or none where a cluster is detected")
    if coordinator is not None and processes is not None and process is not None:
        _check(coordinator, processes, process)
        print(f"process {process} of {processes} waits for the others, {timeout:g} s at most", file=sys.stderr)
        if process > 0:
            _await(coordinator, timeout)
    # It would take SIGTERM for itself; see `preemption`.
    jax.config.update("jax_enable_preemption_service", False)
    seconds = max(int(timeout), 1)
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=seconds, heartbeat_timeout_seconds=seconds
        )
    except ValueError:
        raise InputError(
            "no TPU pod, Slurm, Open MPI or Kubernetes was detected: "
            "give --coordinator HOST:PORT --processes N --process I to each process"
        ) from None
    try:
        yield
    except Preempted:  # all of them are, and end together
        raise
    except KeyboardInterrupt:  # before training: the others may know nothing of it
        print(preemption.SAID, file=sys.stderr, flush=True)
        os._exit(preemption.EXIT_STATUS)
    except BaseException as error:
        refused = isinstance(error, InputError | OSError)
        if not refused and not isinstance(error, jax.errors.JaxRuntimeError):  # such as: another process is gone
            traceback.print_exc()
        print(f"error in process {jax.process_index()}: {error}", file=sys.stderr, flush=True)
        # The ordinary way out waits for the other processes, which wait for this one.
        os._exit(2 if refused else 1)


def is_first() -> bool:
    """Whether this process is the one that reads and writes the workdir."""
    return jax.process_index() == 0


def place(arrays: Any, sharding: NamedSharding) -> Any:
    """Arrays of the host, the same in every process, on the devices of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda index: np.asarray(leaf[index])), arrays
    )


def gather(arrays: Any) -> Any:
    """Arrays of the devices as arrays of the host, whole in every process."""
    return jax.device_get(arrays) if jax.process_count() == 1 else multihost_utils.process_allgather(arrays, tiled=True)


def agreed(arrays: Any) -> Any:
    """Arrays of process 0 in every process, which calls with others of the same shapes and types."""
    if jax.process_count() == 1:
        return arrays

    def handed_out(own: Any) -> np.ndarray:
        own = np.asarray(own)
        # As bytes, because they are handed out as a sum with zeros: that makes 0.0 of -0.0, and 32 bits of 64.
        sent = multihost_utils.broadcast_one_to_all(np.frombuffer(own.tobytes(), np.uint8))
        return np.frombuffer(np.asarray(sent).tobytes(), own.dtype).reshape(own.shape)

    return jax.tree.map(handed_out, arrays)


def largest(number: int) -> Any:
    """The largest of all processes' numbers, to be read by int(), which waits for what was begun before."""
    if jax.process_count() == 1:
        return number
    mesh = Mesh(np.array(jax.devices()), ("device",))
    own = np.full(jax.local_device_count(), number, np.int32)
    numbers = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("device")), own)
    return jax.jit(_max, out_shardings=NamedSharding(mesh, PartitionSpec()))(numbers)


def _max(numbers: jax.Array) -> jax.Array:
    return numbers.max()


def _check(coordinator: str, processes: int, process: int) -> None:
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise InputError(f"the coordinator is HOST:PORT of process 0, e.g. 10.0.0.1:8476; got {coordinator!r}")
    if processes < 1:
        raise InputError(f"--processes must be at least 1; got {processes}")
    if not 0 <= process < processes:
        raise InputError(f"--process must be from 0 to {processes - 1}, one less than --processes; got {process}")


def _await(coordinator: str, timeout: float) -> None:
    """Refuses a coordinator that does not answer; JAX would abort the process with a stack trace."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(f"no coordinator answers at {coordinator} within {timeout:g} s ({error})") from None
            time.sleep(0.1)
