"""A workdir in a bucket, gs://bucket/path: a directory of this machine that is kept in step with it.

gs://bucket/path/…        every file of the workdir (see records.py) but locks and what is half written
gs://bucket/path/lease    who trains there, written anew every SECONDS

Object stores know whole objects: no locks, no renaming, no lines that are added. What can be relied on is order: the
manifest of a checkpoint and the result of a run come after all that they speak of, so a machine may vanish any time.
"""

import functools
import json
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from relujax import hosts
from relujax.errors import InputError, need, one_line
from relujax.preemption import noted_signals
from relujax.records import Held

SECONDS = 15.0  # between two looks at what has changed
PATIENCE = 4  # times that long without a sign, and who held the lease is gone
LEASE = "lease"
STEP = re.compile(r"(?P<run>.+)/(?P<kind>checkpoints|manifests|damaged)/(?P<step>\d+)(?P<rest>[./].*)")
HALF_WRITTEN = re.compile(r"(.*/)?lock|.*\.partial|.*\.orbax-checkpoint-tmp.*")


def is_address(workdir: str | Path) -> bool:
    """Whether it is the address of a bucket, such as gs://bucket/path, and no directory."""
    return re.match(r"\w\w+:/", str(workdir)) is not None  # pathlib makes one slash of two


@contextmanager
def local(workdir: str | Path, *, training: bool = False) -> Iterator[Path]:
    """The directory `workdir` itself; of an address a copy, kept in step with the bucket until the end.

    While `training`, a lease keeps other processes away and what changes here is sent every SECONDS. Otherwise what
    changes there is fetched, without checkpoints, and what was written here is sent at the end. Raises Held where
    another process trains, and OSError, with the copy left in its place, where the end cannot be sent.
    """
    if not is_address(workdir):
        yield Path(workdir)
        return
    address = re.sub(":/+", "://", str(workdir), count=1)
    named = re.fullmatch(r"gs://([^/]+)/+(.*[^/])/*", address)
    if named is None:
        raise InputError(f"the workdir must be a directory or gs://bucket/path; got {address}")
    need("google.cloud.storage", extra="gcs")
    top = Path(tempfile.mkdtemp(prefix="relujax-"))
    directory = top / named[2].rpartition("/")[2]
    directory.mkdir()
    kept = False
    try:
        if training and not hosts.is_first():  # of many processes: the others see nothing of the workdir
            yield directory
            return
        copy = _Copy(address, *named.groups(), directory)
        with copy.leased() if training else nullcontext():
            copy.fetch(checkpoints=training)
            try:
                with _repeated(copy.send if training else copy.fetch):
                    yield directory
            except (InputError, OSError) as error:
                raise type(error)(str(error).replace(str(directory), address)) from error
            finally:
                kept = True
                with noted_signals():  # the last checkpoint is worth the seconds
                    copy.end()
                kept = False
    finally:
        if not kept:
            shutil.rmtree(top)


def _reached(call: Callable) -> Callable:
    """What the bucket's library raises, as one line."""

    @functools.wraps(call)
    def checked(self: "_Copy", *args: Any, **options: Any) -> Any:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        try:
            return call(self, *args, **options)
        except (GoogleAPIError, GoogleAuthError, RequestException) as error:
            raise InputError(f"{self.address} cannot be reached: {one_line(error)}") from error

    return checked


class _Copy:
    """The directory and the bucket, and what the one has of the other."""

    @_reached
    def __init__(self, address: str, bucket: str, path: str, directory: Path):
        from google.cloud import storage

        self.address, self.directory, self._prefix = address, directory, f"{path}/"
        # What stands in for Google's servers asks for no credentials.
        anonymous = "STORAGE_EMULATOR_HOST" in os.environ
        client = storage.Client.create_anonymous_client() if anonymous else storage.Client()
        self._bucket = client.bucket(bucket)
        self._there: dict[str, int] = {}  # name → the object's generation that the directory has
        self._here: dict[str, tuple[int, int]] = {}  # name → time and size of the file that the bucket has
        self._lease = self._bucket.blob(self._prefix + LEASE)
        self._holder = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4()}"
        self._lost = False

    @_reached
    def fetch(self, checkpoints: bool = False) -> None:
        """Brings what has changed in the bucket; of checkpoints only whole ones, and removes the others there."""
        from google.api_core.exceptions import NotFound

        names = {blob.name.removeprefix(self._prefix): blob for blob in self._bucket.list_blobs(prefix=self._prefix)}
        wanted = {}
        for name, blob in names.items():
            of_step = STEP.fullmatch(name)
            if name in ("", LEASE) or name.endswith("/") or (of_step and not checkpoints):  # "/": folders, for the eye
                continue
            if of_step and of_step["kind"] == "checkpoints" and _manifest(of_step) not in names:
                blob.delete()
                continue
            if not (self.directory / name).resolve().is_relative_to(self.directory.resolve()):
                raise InputError(f"{self.address} has an object {name!r}, which is no file of a workdir; remove it")
            if self._there.get(name) != blob.generation:
                wanted[name] = blob
        partial = self.directory.parent / ".partial"
        for folder in (self.directory, partial):
            for name in wanted:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # By name: the listed generation may be gone, for who trains there goes on. The next look brings what is newer.
        pairs = [(self._bucket.blob(self._prefix + name), str(partial / name)) for name in wanted]
        for (name, blob), error in zip(wanted.items(), self._transfer("download_many", pairs), strict=True):
            if isinstance(error, NotFound):  # removed since it was listed
                continue
            if error is not None:
                raise error
            path = self.directory / name
            (partial / name).replace(path)
            self._there[name], self._here[name] = blob.generation, _changed(path)

    @_reached
    def send(self) -> None:
        """Sends what has changed here: what others speak of, then manifests and results; then removes the rest."""
        if self._lost:
            return
        last = {
            name: (when, (self.directory / name).read_bytes())
            for name, when in self._changed_files().items()
            if _speaks_of_others(name)
        }
        changed = {name: when for name, when in self._changed_files().items() if not _speaks_of_others(name)}
        pairs = [(str(self.directory / name), self._bucket.blob(self._prefix + name)) for name in changed]
        for name, error in zip(changed, self._transfer("upload_many", pairs), strict=True):
            if error is None:
                self._here[name] = changed[name]
            elif not isinstance(error, FileNotFoundError):  # an old checkpoint, removed meanwhile
                raise error
        # The result of a run comes after the manifest of its last checkpoint.
        for name, (when, content) in sorted(last.items(), key=lambda item: item[0].endswith("/result.json")):
            if self._lost:
                return
            if (self.directory / name).exists() and self._is_there(name, content):
                self._bucket.blob(self._prefix + name).upload_from_string(content)
                self._here[name] = when
        gone = sorted(self._here.keys() - self._files().keys(), key=lambda name: not _speaks_of_others(name))
        blobs = [self._bucket.blob(self._prefix + name) for name in gone]
        self._bucket.delete_blobs(blobs, on_error=lambda blob: None)  # who has removed it before us
        for name in gone:
            del self._here[name]

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Keeps other processes away; raises Held where another one trains."""
        self._take_lease()
        try:
            with _repeated(self._renew_lease):
                yield
        finally:
            try:
                self._give_lease_back()
            except InputError as error:
                logging.getLogger(__name__).warning("%s: the next process waits for a minute", error)

    def end(self) -> None:
        """Sends what is left."""
        try:
            if self._lost:
                raise InputError(f"another process has taken {self.address} over ({self._who()})")
            self.send()
        except Exception as error:
            raise OSError(f"{error}; what has not reached it is in {self.directory}") from None

    @_reached
    def _take_lease(self) -> None:
        """Waits until who held the lease is gone, or shows itself."""
        from google.api_core.exceptions import PreconditionFailed

        lease = self._bucket.get_blob(self._lease.name)
        before = lease and lease.generation
        if lease:
            told = "%s was in use: waiting for %.0f seconds whether it still is"
            logging.getLogger(__name__).warning(told, self.address, PATIENCE * SECONDS)
        for _ in range(PATIENCE if lease else 0):
            time.sleep(SECONDS)
            lease = self._bucket.get_blob(self._lease.name)
            if (lease and lease.generation) != before:
                break
        try:
            if lease and lease.generation != before:
                raise PreconditionFailed("renewed")
            self._lease.upload_from_string(self._holder, if_generation_match=lease.generation if lease else 0)
        except PreconditionFailed:
            told = "wait for it or use another workdir"
            raise Held(f"another process is training in {self.address} ({self._who()}); {told}") from None

    @_reached
    def _renew_lease(self) -> None:
        """Shows that we are still here; where another process has taken over meanwhile, training ends."""
        from google.api_core.exceptions import PreconditionFailed

        if self._lost:
            return
        try:
            self._lease.upload_from_string(self._holder, if_generation_match=self._lease.generation)
        except PreconditionFailed:
            if self._who() == self._holder:  # an answer was lost on its way, and the library had asked again
                self._lease = self._bucket.blob(self._lease.name)
                self._lease.reload()
            else:
                self._lost = True
                os.kill(os.getpid(), signal.SIGTERM)

    @_reached
    def _give_lease_back(self) -> None:
        if not self._lost:
            self._lease.delete(if_generation_match=self._lease.generation)

    @_reached
    def _who(self) -> str:
        from google.api_core.exceptions import NotFound

        try:
            return self._bucket.blob(self._lease.name).download_as_text()  # by name, not what was read of it before
        except NotFound:
            return "it has just ended"

    def _files(self) -> dict[str, tuple[int, int]]:
        """Every file that belongs into the bucket, and when it was changed."""
        found = {}
        for path in self.directory.rglob("*"):
            name = path.relative_to(self.directory).as_posix()
            if not HALF_WRITTEN.fullmatch(name):
                try:
                    if path.is_file():
                        found[name] = _changed(path)
                except FileNotFoundError:  # an old checkpoint, removed while we look
                    continue
        return found

    def _changed_files(self) -> dict[str, tuple[int, int]]:
        """Those that the bucket does not have as they are."""
        return {name: when for name, when in self._files().items() if when != self._here.get(name)}

    @staticmethod
    def _transfer(how: str, pairs: list[tuple]) -> list[Exception | None]:
        """Several at once, as "upload_many" or "download_many" of Google's transfer manager."""
        from google.cloud.storage import transfer_manager

        return getattr(transfer_manager, how)(pairs, worker_type=transfer_manager.THREAD, max_workers=8)

    def _is_there(self, name: str, content: bytes) -> bool:
        """Whether all that a manifest lists has been sent; of a checkpoint that was removed meanwhile it has not."""
        of_step = STEP.fullmatch(name)
        if of_step is None:
            return True
        folder = f"{of_step['run']}/checkpoints/{of_step['step']}"
        return all(f"{folder}/{file}" in self._here for file in json.loads(content))


@contextmanager
def _repeated(action: Callable[[], None]) -> Iterator[None]:
    """Does `action` every SECONDS in the background; one that fails is said and tried again."""
    ended = threading.Event()

    def repeat() -> None:
        told = ""
        while not ended.wait(SECONDS):
            try:
                action()
                told = ""
            except Exception as error:
                if str(error) != told:
                    logging.getLogger(__name__).warning("%s; trying again every %.0f s", error, SECONDS)
                told = str(error)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with noted_signals():  # a send that is under way ends before the next one begins
            ended.set()
            thread.join()


def _manifest(of_step: re.Match) -> str:
    return "{run}/manifests/{step}.json".format(**of_step.groupdict())


def _speaks_of_others(name: str) -> bool:
    """Whether a file says that others are whole."""
    of_step = STEP.fullmatch(name)
    measured = name.startswith("measurements/") and name.endswith(".json")
    return measured or name.endswith("/result.json") or (of_step is not None and of_step["kind"] == "manifests")


def _changed(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_size
