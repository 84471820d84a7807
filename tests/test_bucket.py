"""Workdirs in a bucket: Google's own library against an emulator on this machine, in every way a machine goes away."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest
import requests
from fault_studies import CONVOLUTIONAL, DENSE, RECIPE
from test_faults import ROOT, outcome

from relujax import bucket, hosts, runner
from relujax.cli import main
from relujax.errors import InputError
from relujax.records import Held
from relujax.study import Study

SHORT = replace(DENSE, recipe=RECIPE.lasting(2))


LONG = {  # long enough to be sent while they train
    "dense": lambda: study(replace(DENSE, recipe=RECIPE.lasting(2000))),
    "convolutional": lambda: study(replace(CONVOLUTIONAL, recipe=RECIPE.lasting(10))),
}


def study(trial) -> Study:
    return Study(source="study", question="?", trials={"row": trial}, metrics=("test_error",), runs=1)


def short() -> Study:
    return study(SHORT)


@pytest.fixture(scope="module")
def server():
    """The address of an emulator that, as Google's servers do, heeds ifGenerationMatch and generation."""
    from gcp_storage_emulator import server
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    def heeded(handler, parameter, refusal, name_of):
        def checked(request, response, storage, *rest, **named):
            wanted = request.query.get(parameter, [None])[0]
            try:
                bucket_name = request.params["bucket_name"]
                found = wanted and storage.get_file_obj(bucket_name, name_of(request))["generation"]
            except NotFound:
                found = "0"
            if wanted != found:
                response.status = refusal
                return None
            return handler(request, response, storage, *rest, **named)

        return checked

    objects._multipart_upload = heeded(
        objects._multipart_upload,
        "ifGenerationMatch",
        HTTPStatus.PRECONDITION_FAILED,
        lambda request: request.data["meta"]["name"],
    )
    download = heeded(objects.download, "generation", HTTPStatus.NOT_FOUND, lambda request: request.params["object_id"])
    for _, methods in server.HANDLERS:
        methods |= {method: download for method, handler in methods.items() if handler is objects.download}
    emulator = server.create_server("localhost", 0, in_memory=True, default_bucket="bucket")
    emulator.start()
    yield f"http://localhost:{emulator._api._httpd.server_address[1]}"
    emulator.stop()


@pytest.fixture
def there(server, monkeypatch, tmp_path):
    """A bucket of one's own: the address of a workdir, and what is in it."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
    monkeypatch.setattr(bucket, "SECONDS", 0.2)
    monkeypatch.setattr(bucket.tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    return f"gs://bucket/{tmp_path.name}"


def blobs(address):
    from google.cloud import storage

    _, _, name, prefix = address.split("/", 3)
    found = storage.Client.create_anonymous_client().list_blobs(name, prefix=f"{prefix}/")
    return {blob.name.removeprefix(f"{prefix}/"): blob for blob in found}


def test_a_study_is_trained_in_a_bucket_and_read_from_there(there, capsys, tmp_path):
    assert main({"short": short}, ["run", "short", "--workdir", there]) == 0
    assert f"report: {there}/report.html" in capsys.readouterr().out
    names = blobs(there).keys()
    assert {"report.html", "studies/short.json"} <= names
    assert not [name for name in names if name.endswith(("lock", "lease", ".partial"))]
    steps = {name.rpartition("/")[2] for name in names if "/manifests/" in name}
    assert steps and all(any(f"/checkpoints/{step[:-5]}/" in name for name in names) for step in steps)
    for command, says in (
        (["report", "short", "--workdir", there], "row"),
        (["list", "--workdir", there], "1 of 1"),
        (["watch", there, "--once"], "1 of 1 runs ended"),
    ):
        assert main({"short": short}, command) == 0
        assert says in capsys.readouterr().out
    assert not list((tmp_path / "copies").iterdir())
    # On a machine that has nothing of it the runs are there: nothing is trained again.
    before = {name: blob.generation for name, blob in blobs(there).items()}
    runner.run(short(), name="short", workdir=there)
    runs = {name: blob.generation for name, blob in blobs(there).items() if name.startswith("runs/")}
    assert runs == {name: generation for name, generation in before.items() if name.startswith("runs/")}


def test_what_is_removed_here_is_removed_there(there):
    with bucket.local(there, training=True) as directory:
        (directory / "a.txt").write_text("a")
        wait_for(lambda: "a.txt" in blobs(there))
        (directory / "a.txt").unlink()
        (directory / "b.txt.partial").write_text("b")
    assert not blobs(there)


def test_a_manifest_comes_after_all_of_its_checkpoint_and_half_a_checkpoint_is_not_fetched(there):
    run = "runs/net/seed_0"
    with bucket.local(there, training=True) as directory:
        for path, text in (
            ("checkpoints/1/a", "a"),
            ("manifests/1.json", '{"a": "", "missing": ""}'),
            ("checkpoints/2/a", "a"),
            ("manifests/2.json", '{"a": ""}'),
        ):
            (directory / run / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / run / path).write_text(text)
    assert f"{run}/checkpoints/1/a" in blobs(there) and f"{run}/manifests/1.json" not in blobs(there)
    with bucket.local(there) as directory:
        assert not [path for path in directory.rglob("*") if path.is_file()]
    with bucket.local(there, training=True) as directory:
        files = {str(path.relative_to(directory / run)) for path in directory.rglob("*") if path.is_file()}
        assert files == {"checkpoints/2/a", "manifests/2.json"}
    assert f"{run}/checkpoints/1/a" not in blobs(there)


def test_one_process_trains_at_a_time_and_one_that_is_gone_is_waited_for(there):
    with bucket.local(there, training=True):
        with pytest.raises(Held, match=f"another process is training in {there} .*process {os.getpid()}"):  # noqa: SIM117
            with bucket.local(there, training=True):
                pass
        with bucket.local(there):  # to read is free
            pass
        held = blobs(there)["lease"]
    held.upload_from_string("a machine that was taken away")
    with bucket.local(there, training=True):
        assert held.generation != blobs(there)["lease"].generation
    assert "lease" not in blobs(there)


def test_it_stays_ours_however_long_a_transfer_takes(there, monkeypatch):
    transfer = bucket._Copy._transfer

    def slow(*arguments):
        time.sleep(2 * bucket.PATIENCE * bucket.SECONDS)
        return transfer(*arguments)

    def other():
        with pytest.raises(Held), bucket.local(there, training=True):
            pass
        refused.set()

    refused = threading.Event()
    monkeypatch.setattr(bucket._Copy, "_transfer", staticmethod(slow))
    with bucket.local(there, training=True):
        thread = threading.Thread(target=other)
        thread.start()
    thread.join()
    assert refused.is_set()


def test_what_is_rewritten_or_removed_while_it_is_fetched_is_no_error(there, monkeypatch):
    with bucket.local(there, training=True) as directory:
        for name in ("rewritten", "removed", "quiet"):
            (directory / name).write_text("")
    transfer = bucket._Copy._transfer

    def after_another_look(how, pairs):
        if how == "download_many":
            blobs(there)["rewritten"].upload_from_string("anew")
            with suppress(KeyError):
                blobs(there)["removed"].delete()
        return transfer(how, pairs)

    monkeypatch.setattr(bucket._Copy, "_transfer", staticmethod(after_another_look))
    with bucket.local(there) as directory:
        assert {path.name: path.read_text() for path in directory.iterdir()} == {"rewritten": "anew", "quiet": ""}


def test_without_credentials_one_line_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(bucket.tempfile, "tempdir", str(tmp_path))
    assert main({"short": short}, ["list", "--workdir", "gs://bucket/path"]) == 2
    assert capsys.readouterr().err.startswith("error: gs://bucket/path cannot be reached: ")
    assert not list(tmp_path.iterdir())


def test_a_result_comes_after_the_manifest_of_its_last_checkpoint(there, monkeypatch):
    from google.cloud.storage import Blob

    sent, upload = [], Blob.upload_from_string
    monkeypatch.setattr(Blob, "upload_from_string", lambda *a, **k: (sent.append(a[0].name), upload(*a, **k)))
    with bucket.local(there, training=True) as directory:
        run = directory / "runs" / "net" / "seed_0"
        for path, text in (("result.json", "{}"), ("manifests/1.json", '{"a": ""}'), ("checkpoints/1/a", "a")):
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            (run / path).write_text(text)
    assert [name.rpartition("/")[2] for name in sent if not name.endswith("lease")] == ["1.json", "result.json"]


def test_where_another_process_has_taken_over_nothing_is_sent_any_more(there, tmp_path):
    noticed = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: noticed.set())
    try:
        with pytest.raises(OSError, match=f"has taken {there} over .the other.; what has not reached it is in"):  # noqa: SIM117
            with bucket.local(there, training=True) as directory:
                (directory / "mine").write_text("")
                wait_for(lambda: "mine" in blobs(there))
                blobs(there)["lease"].upload_from_string("the other")
                assert noticed.wait(20)
                (directory / "late").write_text("")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "late" not in blobs(there) and blobs(there)["lease"].download_as_bytes() == b"the other"
    assert list((tmp_path / "copies").rglob("late"))


def test_what_cannot_be_sent_is_kept_and_named(there, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise requests.ConnectionError("the network is down")

    with pytest.raises(OSError, match=f"{there} cannot be reached: the network is down; what has not reached it is in"):  # noqa: SIM117
        with bucket.local(there, training=True) as directory:
            monkeypatch.setattr(bucket._Copy, "_transfer", broken)
            (directory / "result").write_text("dear")
    assert [path.read_text() for path in (tmp_path / "copies").rglob("result")] == ["dear"]


def test_an_object_that_would_be_written_elsewhere_is_refused(there, tmp_path):
    with bucket.local(there, training=True) as directory:
        (directory / "fine").write_text("")
    blob = blobs(there)["fine"]
    copy = bucket._Copy(there, "bucket", tmp_path.name, tmp_path / "copies")
    blob.name = f"{tmp_path.name}/../evil"
    copy._bucket.list_blobs = lambda prefix: [blob]
    with pytest.raises(InputError, match=r"an object '\.\./evil', which is no file of a workdir"):
        copy.fetch()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("address", ["gs://bucket", "s3://bucket/path"])
def test_an_address_that_is_none_is_refused(address, capsys):
    assert main({"short": short}, ["run", "short", "--workdir", address]) == 2
    assert f"a directory or gs://bucket/path; got {address}" in capsys.readouterr().err


def test_without_the_package_for_buckets_the_install_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    monkeypatch.setattr("relujax.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"google.cloud.storage, which is not installed: .*relujax\[gcs\]"):
        runner.fit(SHORT, seeds=(0,), workdir=Path("gs://bucket/path"))


def test_a_bucket_that_is_not_there_is_one_line(there, capsys):
    assert main({"short": short}, ["list", "--workdir", "gs://nobody/path"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: gs://nobody/path cannot be reached: 404") and said.count("\n") == 1


def test_other_processes_of_a_training_leave_the_bucket_alone(there, monkeypatch):
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    with bucket.local(there, training=True) as directory:
        (directory / "nothing").write_text("")
    assert not blobs(there)


def manifests(address):
    if not bucket.is_address(address):
        return set()
    return {blob.generation for name, blob in blobs(address).items() if "/manifests/" in name}


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def train(study, workdir, server, copies, taken_away_by=None):
    """The command on a machine that has nothing of what others had; its exit status, and what it said."""
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    before = manifests(workdir)
    command = [sys.executable, __file__, "run", study, "--workdir", str(workdir), "--checkpoint-every", "1s"]
    environment = os.environ | {"STORAGE_EMULATOR_HOST": server, "TMPDIR": str(copies), "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        if taken_away_by is not None:
            wait_for(lambda: process.poll() is not None or manifests(workdir) - before, 120)
            process.send_signal(taken_away_by)
        _, said = process.communicate(timeout=300)
    return process.returncode, said


@pytest.mark.faults
@pytest.mark.parametrize("how, status", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 3)])
@pytest.mark.parametrize("study", ["dense", "convolutional"])
def test_machines_that_are_taken_away_end_as_one_that_was_not(study, how, status, there, server, tmp_path):
    """Each machine has but the bucket."""
    copies = tmp_path / "temporary"
    whole = train(study, tmp_path / "whole", server, copies)
    assert whole[0] == 0, whole[1]
    for _ in range(2):
        ended = train(study, there, server, copies, taken_away_by=how)
        assert ended[0] == status, ended[1]
    ended = train(study, there, server, copies)
    assert ended[0] == 0, ended[1]
    with bucket.local(there, training=True) as directory:
        assert outcome(directory) == outcome(tmp_path / "whole")


if __name__ == "__main__":
    bucket.SECONDS = 0.3
    sys.exit(main(LONG))
