"""The only file that knows Orbax: a run's train state on disk, by step, each file covered by a SHA-256.

RUN/checkpoints/<step>/       Orbax's, renamed into place when whole; the two newest are kept
RUN/manifests/<step>.json     the digest of every file of it, written last
RUN/damaged/<step>/           set aside, because a file is not what the manifest says
"""

import json
import logging
import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from relujax.datasets import file_sha256
from relujax.errors import InputError, one_line
from relujax.records import write_json

KEPT = 2


class Checkpoints:
    """The checkpoints of one run; saving goes on in the background, and its errors surface at the next call."""

    def __init__(self, directory: Path):
        import orbax.checkpoint as ocp

        # Where Orbax prints, with call stacks, what we raise as one line.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        # What a killed process was writing; nobody else writes here, for the run is locked.
        for left in (directory / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left)
        # Of several processes only the first saves, and must not wait for the others, as Orbax has it by default.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="process0"
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, create=False, multiprocessing_options=alone
        )
        self.directory = directory
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager((directory / "checkpoints").absolute(), options=options)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None

    def save(self, step: int, state: Any) -> None:
        """Begins to write `state`, arrays of the host, as that after `step`; returns before it is on disk."""
        self.wait()
        self._saving = self._worker.submit(self._save, step, state)

    def restore(self, step: int, like: Any) -> Any:
        """The state after `step`, with the structure, shapes and types of `like`."""
        import orbax.checkpoint as ocp

        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def wait(self) -> None:
        """Waits until everything is on disk; raises what went wrong there."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def surface(self) -> None:
        """Raises what went wrong in the background, if anything did by now."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def close(self) -> None:
        """Waits until everything is on disk, and ends."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            self._manager.close()

    def _save(self, step: int, state: Any) -> None:
        import orbax.checkpoint as ocp

        try:
            self._manager.save(step, args=ocp.args.StandardSave(state))
            _seal(self.directory, step)
        except Exception as error:
            # TensorStore raises ValueErrors whose text, a page long, has the number of what the system said somewhere.
            number = re.search(r"os_error_code='(\d+)'", str(error))
            reason = os.strerror(int(number[1])) if number else one_line(error)
            raise OSError(f"step {step} could not be saved in {self.directory / 'checkpoints'}: {reason}") from error
        kept = {str(step) for step in self._manager.all_steps()}
        for path in (self.directory / "manifests").glob("*.json"):
            if path.stem not in kept:
                path.unlink()


def newest(directory: Path) -> int:
    """The step of a run's newest whole checkpoint, 0 before the first; a damaged one is named and set aside.

    Raises InputError where there are checkpoints and all are damaged: a run never starts again unasked.
    """
    damages = []
    for step in sorted(saved(directory), reverse=True):
        if not (damage := _damage(directory, step)):
            return step
        damages.append(damage)
        logging.getLogger(__name__).warning("%s: the checkpoint before it is used instead", damage)
        _set_aside(directory, step)
    if damages or (directory / "damaged").exists():
        aside = directory / "damaged"
        raise InputError(f"every checkpoint of {directory} is damaged, see {aside}; remove {directory} to start again")
    return 0


def saved(directory: Path) -> list[int]:
    """The steps of which a run holds checkpoints, whole or not."""
    return [int(path.name) for path in (directory / "checkpoints").glob("[0-9]*") if path.name.isdecimal()]


def _seal(directory: Path, step: int) -> None:
    """Everything of the checkpoint, and the epochs before it, to the disk itself, then its manifest."""
    folder = directory / "checkpoints" / str(step)
    epochs = [path for path in (directory / "metrics.jsonl", *directory.glob("probes/*/*.npy")) if path.exists()]
    for path in (*epochs, *folder.rglob("*"), folder, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    digests = {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(directory / "manifests" / f"{step}.json", digests)


def _damage(directory: Path, step: int) -> str:
    """Which file of the checkpoint is not what its manifest says; "" where all are.

    A process that was killed before it wrote the manifest had the checkpoint renamed into place, so it is whole.
    """
    folder, manifest = directory / "checkpoints" / str(step), directory / "manifests" / f"{step}.json"
    if not manifest.exists():
        return "" if any(folder.iterdir()) else f"{folder} is empty"
    try:
        digests = dict(json.loads(manifest.read_text()))
    except (ValueError, TypeError):
        return f"{manifest} is damaged"
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if file_sha256(path) != digest:
            return f"{path} is damaged"
    return ""


def _set_aside(directory: Path, step: int) -> None:
    target = directory / "damaged" / str(step)
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    (directory / "checkpoints" / str(step)).replace(target)
    (directory / "manifests" / f"{step}.json").unlink(missing_ok=True)
