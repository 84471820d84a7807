import functools
import gzip
import hashlib
import http.server
import io
import multiprocessing
import os
import tarfile
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from test_datasets import make, shrink

from relujax import datasets, download
from relujax.cli import main
from relujax.datasets import DATASETS, load, records_dir
from relujax.download import NAMES, Source, fetch, prepare, read_idx, read_tar, sources
from relujax.errors import InputError


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """(base URL, folder) of a web server on this machine."""
    folder = tmp_path / "www"
    folder.mkdir()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RELUJAX_CACHE", str(tmp_path / "cache"))


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def archive(members):
    """A tar.gz of (name, content or TarInfo) pairs."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:  # a header that promises content, which `addfile` would refuse
                tar.fileobj.write(info.tobuf())
                tar.offset += tarfile.BLOCKSIZE
    return made.getvalue()


def originals(name, arrays):
    """{file name: bytes} in the format of the official files."""
    if name not in download.BINARIES:
        parts = (("train", "train"), ("test", "t10k"))
        images = {f"{tag}-images-idx3-ubyte.gz": idx(arrays[f"{part}_images"][..., 0]) for part, tag in parts}
        return images | {f"{tag}-labels-idx1-ubyte.gz": idx(arrays[f"{part}_labels"]) for part, tag in parts}
    members = [("batches", tarfile.TarInfo()), ("batches/readme.html", b"<html>")]
    members[0][1].type = tarfile.DIRTYPE
    for split, files in download.BINARIES[name].items():
        images = arrays[f"{split}_images"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        labels = arrays[f"{split}_labels"][:, None]
        columns = [labels % 20, labels] if name == "cifar100" else [labels]
        rows = np.hstack([*columns, images]).astype(np.uint8)
        chunks = np.array_split(rows, len(files))
        members += [(f"batches/{file}", chunk.tobytes()) for file, chunk in zip(files, chunks)]
    return {f"{name}.tar.gz": archive(members)}


def publish(monkeypatch, name, files, base):
    """Let TFDS's registry list `files` at `base`."""
    listed = tuple(Source(f"{base}/{f}", len(c), hashlib.sha256(c).hexdigest()) for f, c in files.items())
    monkeypatch.setattr(download, "sources", lambda wanted: listed)


def offer(monkeypatch, server, name, seed=0):
    """A small dataset in its original format on the local server; returns its arrays."""
    base, folder = server
    arrays = make(name, train=200, test=100, seed=seed)
    shrink(monkeypatch, name, arrays)
    files = originals(name, arrays)
    for filename, content in files.items():
        (folder / filename).write_bytes(content)
    publish(monkeypatch, name, files, base)
    return arrays


@pytest.mark.parametrize("name", NAMES)
def test_registry_names_the_official_files(name):
    listed = sources(name)
    assert len(listed) == (1 if "cifar" in name else 4)
    assert abs(sum(source.size for source in listed) / 1e6 - DATASETS[name].megabytes) < 1
    assert all(source.url.startswith("http") and len(source.sha256) == 64 for source in listed)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100"])
def test_prepared_data_are_the_originals(name, server, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    arrays = offer(monkeypatch, server, name)
    seen = []
    records = prepare(name, tmp_path / "data", progress=lambda *step: seen.append(step))
    assert records == tmp_path / "data" / name / DATASETS[name].version
    loaded = load(name, tmp_path / "data")
    assert loaded.digest == datasets.check(name, arrays, where="memory").digest
    assert load(name, tmp_path / "data", anew=True).digest == loaded.digest
    last = {what: (done, total) for what, done, total in seen if "gz" in what}
    assert len(last) == len(download.sources(name)) and all(done == total for done, total in last.values())
    source = tfds.data_source(name, split="test", data_dir=tmp_path / "data", download=False)
    assert len(source) == 100 and source[0]["image"].shape == DATASETS[name].shape
    assert not list((tmp_path / "data").glob(".*"))


def test_prepared_data_need_no_server_again(server, tmp_path, monkeypatch):
    offer(monkeypatch, server, "kmnist")
    records = prepare("kmnist", tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in records.iterdir()}
    monkeypatch.setattr(download, "_download", None)
    assert prepare("kmnist", tmp_path) == records
    assert before == {path.name: path.stat().st_mtime_ns for path in records.iterdir()}


def test_damaged_records_are_set_aside_and_prepared_again(server, tmp_path, monkeypatch):
    offer(monkeypatch, server, "kmnist")
    records = prepare("kmnist", tmp_path)
    for _ in range(2):
        next(records.glob("*train*")).write_bytes(b"")
        monkeypatch.setattr(download, "_download", None)  # the archives are still there
        assert prepare("kmnist", tmp_path) == records
        assert load("kmnist", tmp_path, anew=True).name == "kmnist"
        assert records.with_name(f"{records.name}.refused").is_dir()


@pytest.mark.parametrize("damage", ["flip", "truncate", "html", "long", "missing"])
@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_wrong_file_is_set_aside_and_the_next_mirror_tried(name, damage, server, tmp_path, monkeypatch):
    offer(monkeypatch, server, name)
    base, folder = server
    (folder / "bad").mkdir()
    for path in folder.glob("*.gz"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        wrong = {"flip": content, "truncate": content[:50], "html": b"<html>", "long": content * 2}
        if damage != "missing":
            (folder / "bad" / path.name).write_bytes(wrong[damage])
    first = download.sources(name)[0].filename
    prepare(name, tmp_path / "data", mirrors=[f"{base}/bad/"])
    # A file of another size is not even fetched.
    assert (tmp_path / "data/downloads" / name / f"{first}.refused").exists() == (damage == "flip")
    assert load(name, tmp_path / "data", anew=True).name == name

    files = {source.filename: (folder / source.filename).read_bytes() for source in download.sources(name)}
    publish(monkeypatch, name, files, f"{base}/bad")
    words = {"missing": "404", "flip": "SHA-256 expected [0-9a-f]{64} .*, got [0-9a-f]{64}"}
    words = words.get(damage, r"another file: \d+ bytes, expected \d+")
    with pytest.raises(InputError, match=words) as refused:
        prepare(name, tmp_path / "other")
    assert "\n" not in str(refused.value) and first in str(refused.value)
    with pytest.raises(InputError, match="is not prepared"):
        load(name, tmp_path / "other")


CONTENT = np.random.default_rng(0).bytes(300_000)
WANTED = Source("http://127.0.0.1:9/file.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Fragile(Quiet):
    """Serves CONTENT, the way the first part of the path says, and notes where each answer began."""

    begun: ClassVar[list[int]] = []

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and behaviour != "without_ranges" else 0
        content = bytes(len(CONTENT)) if behaviour == "wrong" else CONTENT
        self.begun.append(start)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if behaviour != "breaking" else content[start:][:100_000])


@pytest.fixture
def fragile(monkeypatch):
    monkeypatch.setattr(Fragile, "begun", [])
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fragile)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def ignore(*progress):
    pass


def test_a_connection_that_breaks_is_taken_up_where_it_broke(fragile, tmp_path):
    seen = []
    fetch(WANTED, tmp_path, [f"{fragile}/breaking"], lambda *step: seen.append(step))
    assert Fragile.begun == [0, 100_000, 200_000] and (tmp_path / "file.gz").read_bytes() == CONTENT
    done = [step[1] for step in seen]
    assert done == sorted(set(done)) and done[-1] == len(CONTENT)
    assert {path.suffix for path in tmp_path.iterdir()} == {".gz", ".lock"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("behaviour, begun", [("whole", [0, 262_144]), ("without_ranges", [0, 0])])
def test_a_killed_download_goes_on_in_the_next_process(behaviour, begun, fragile, tmp_path):
    def kill(*progress):
        raise Killed

    with pytest.raises(Killed):
        fetch(WANTED, tmp_path, [f"{fragile}/{behaviour}"], kill)
    assert (tmp_path / "file.gz.partial").stat().st_size == 262_144
    fetch(WANTED, tmp_path, [f"{fragile}/{behaviour}"], ignore)
    assert Fragile.begun == begun and (tmp_path / "file.gz").read_bytes() == CONTENT


def test_a_beginning_that_is_of_another_file_is_fetched_anew(fragile, tmp_path):
    (tmp_path / "file.gz.partial").write_bytes(bytes(1000))
    fetch(WANTED, tmp_path, [f"{fragile}/whole"], ignore)
    assert Fragile.begun == [1000, 0] and (tmp_path / "file.gz").read_bytes() == CONTENT
    assert (tmp_path / "file.gz.refused").stat().st_size == len(CONTENT)


def test_a_wrong_file_is_fetched_once_and_the_next_mirror_asked(fragile, tmp_path):
    fetch(WANTED, tmp_path, [f"{fragile}/wrong", f"{fragile}/whole"], ignore)
    assert Fragile.begun == [0, 0] and (tmp_path / "file.gz").read_bytes() == CONTENT
    (tmp_path / "file.gz").unlink()
    with pytest.raises(InputError, match=r"wrong/file.gz: SHA-256 expected .*; http://127.0.0.1:9/file.gz: .*refused"):
        fetch(WANTED, tmp_path, [f"{fragile}/wrong"], ignore)


def test_two_downloads_of_one_file_at_once_leave_one_whole_file(fragile, tmp_path):
    threads = [
        threading.Thread(target=fetch, args=(WANTED, tmp_path, [f"{fragile}/breaking"], ignore)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.gz").read_bytes() == CONTENT and len(Fragile.begun) == 3  # one of them fetched it


def test_archives_of_another_dataset_are_refused(server, tmp_path, monkeypatch):
    offer(monkeypatch, server, "fashion_mnist")
    others = originals("fashion_mnist", make("fashion_mnist", train=200, test=100, seed=9))
    downloads = tmp_path / "downloads/fashion_mnist"
    downloads.mkdir(parents=True)
    for filename, content in others.items():
        (downloads / filename).write_bytes(content)
    prepare("fashion_mnist", tmp_path)
    assert (downloads / "train-images-idx3-ubyte.gz.refused").exists()

    other = tmp_path / "other/downloads/fashion_mnist"
    other.mkdir(parents=True)
    for filename, content in others.items():
        (other / filename).write_bytes(content)
    publish(monkeypatch, "fashion_mnist", others, "http://127.0.0.1:9")
    with pytest.raises(InputError, match="mean of the training pixels"):  # though the registry vouches for them
        prepare("fashion_mnist", tmp_path / "other")


def test_archives_at_hand_are_used_without_a_network(server, tmp_path, monkeypatch):
    arrays = make("cifar10", train=200, test=100)
    shrink(monkeypatch, "cifar10", arrays)
    files = originals("cifar10", arrays)
    publish(monkeypatch, "cifar10", files, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cifar10.tar.gz was not found.*refused.*put the right file into"):
        prepare("cifar10", tmp_path)
    (tmp_path / "downloads/cifar10").mkdir(parents=True, exist_ok=True)
    (tmp_path / "downloads/cifar10/cifar10.tar.gz").write_bytes(files["cifar10.tar.gz"])
    assert prepare("cifar10", tmp_path).is_dir()


def test_names_without_originals_are_refused(tmp_path):
    with pytest.raises(InputError, match="scikit-learn"):
        prepare("digits", tmp_path)
    with pytest.raises(InputError, match="did you mean 'kmnist'"):
        prepare("kminst", tmp_path)


def test_folder_that_cannot_be_written_is_refused(server, tmp_path, monkeypatch):
    offer(monkeypatch, server, "kmnist")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="kmnist cannot be prepared in"):
        prepare("kmnist", tmp_path / "file")


def test_all_sets_are_prepared_listed_and_verified_by_three_words(server, tmp_path, monkeypatch, capsys):
    """Those that cannot be had are named at the end, and are no reason to go without the others."""
    base, folder = server
    for name in ("mnist", "kmnist"):
        arrays = make(name, train=200, test=100)
        shrink(monkeypatch, name, arrays)
        (folder / name).mkdir()
        for filename, content in originals(name, arrays).items():
            (folder / name / filename).write_bytes(content)

    def listed(name):
        contents = {path.name: path.read_bytes() for path in (folder / name).glob("*")} or {"missing.gz": b"1"}
        return tuple(Source(f"{base}/{name}/{f}", len(c), hashlib.sha256(c).hexdigest()) for f, c in contents.items())

    monkeypatch.setattr(download, "sources", listed)

    def data(*words):
        code = main({}, ["data", *words, "--data-dir", str(tmp_path / "data")])
        return code, capsys.readouterr()

    code, told = data("all")
    assert code == 2 and told.out.count("SHA-256 of the arrays") == 3
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in errors] == ["fashion_mnist", "cifar10", "cifar100"]
    assert all("missing.gz was not found" in line for line in errors)
    assert [line.split()[0] for line in data("list")[1].out.splitlines() if " yes " in line] == [
        "digits",
        "mnist",
        "kmnist",
    ]
    code, told = data("verify")
    assert code == 0 and [line.split(":")[0] for line in told.out.splitlines()[::3]] == ["digits", "mnist", "kmnist"]
    (records_dir("mnist", tmp_path / "data") / datasets.STATED_DIGEST).write_text("0" * 64)
    assert data("mnist", "--mirror", "http://127.0.0.1:9")[0] == 0  # prepared anew, from the archives that are there
    (records_dir("mnist", tmp_path / "data") / datasets.STATED_DIGEST).write_text("0" * 64)
    code, told = data("verify", "mnist")
    assert code == 2 and "mnist: " in told.err and "was altered" in told.err


def special(kind):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def huge(size):
    info = tarfile.TarInfo()
    info.size = size
    return info


HOSTILE = {
    "parent": (("a/../../x.bin", b"123"), "points outside"),
    "absolute": (("/tmp/x.bin", b"123"), "points outside"),
    "drive": (("c:\\x.bin", b"123"), "points outside"),
    "backslash": (("..\\x.bin", b"123"), "points outside"),
    "symlink": (("x", special(tarfile.SYMTYPE)), "neither a file nor a folder"),
    "hard link": (("x", special(tarfile.LNKTYPE)), "neither a file nor a folder"),
    "device": (("x", special(tarfile.CHRTYPE)), "neither a file nor a folder"),
    "pipe": (("x", special(tarfile.FIFOTYPE)), "neither a file nor a folder"),
    "twice": (("a.bin", b"123"), "comes twice"),
    "twice elsewhere": (("deep/a.bin", b"123"), "comes twice"),
    "ten gigabytes": (("zeros", huge(10 << 30)), "10737418240 bytes"),
    "too long": (("b.bin", b"1234"), "expected 6 bytes, got 7"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused(name, tmp_path):
    member, words = HOSTILE[name]
    path = tmp_path / "x.tar.gz"
    path.write_bytes(archive([("a.bin", b"123"), member, ("b.bin", b"456")][: 2 if "long" in name else 3]))
    with pytest.raises(InputError, match=words):
        read_tar(path, ("a.bin", "b.bin"), 6)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.tar.gz"]


def test_archive_that_unpacks_without_end_is_refused(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(archive([(f"{i}.bin", bytes(1 << 20)) for i in range(20)]))
    with pytest.raises(InputError, match="unpacks to more"):
        read_tar(path, ("a.bin",), 100, limit=5 << 20)


def test_honest_archive_is_read_in_the_order_of_the_names(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(archive([("d/b.bin", b"456"), ("d/other", b"7"), ("d/a.bin", b"123")]))
    assert read_tar(path, ("a.bin", "b.bin"), 6) == b"123456"
    with pytest.raises(InputError, match=r"lacks 'c.bin'"):
        read_tar(path, ("c.bin",), 6)
    for content in (b"<html>", path.read_bytes()[:-20], gzip.compress(b"no archive" * 100)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"refused|lacks"):
            read_tar(path, ("a.bin", "b.bin"), 6)


def test_idx_of_another_shape_is_refused(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "x.gz"
    path.write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(path, (2, 3, 4)), array)
    for content in (idx(array[:1]), idx(array.reshape(2, 4, 3)), gzip.compress(bytes(10 << 20))):
        path.write_bytes(content)
        with pytest.raises(InputError, match="expected 40 bytes"):
            read_idx(path, (2, 3, 4))
    for content in (b"<html>", idx(array)[:-9], b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.gz"):
            read_idx(path, (2, 3, 4))


def _prepare_in_child(data_dir, facts, listed, pause):
    DATASETS["kmnist"] = facts
    download.sources = lambda name: listed
    if pause:
        download.read = lambda *args: time.sleep(60)  # the records are written, but not in place
    prepare("kmnist", data_dir)


def test_killed_and_competing_processes_leave_one_valid_copy(server, tmp_path, monkeypatch):
    offer(monkeypatch, server, "kmnist")
    spawn = multiprocessing.get_context("spawn")  # array_record has threads, which do not survive a fork
    data_dir = tmp_path / "data"
    args = (data_dir, DATASETS["kmnist"], download.sources("kmnist"))
    victim = spawn.Process(target=_prepare_in_child, args=(*args, True))
    victim.start()
    while not list(data_dir.glob(".kmnist-*/kmnist/*/digest.txt")):
        assert victim.is_alive()
        time.sleep(0.01)
    victim.kill()
    victim.join()
    with pytest.raises(InputError, match="is not prepared"):
        load("kmnist", data_dir)

    (left,) = data_dir.glob(".kmnist-*")
    os.utime(left, (0, 0))
    rivals = [spawn.Process(target=_prepare_in_child, args=(*args, False)) for _ in range(2)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert [rival.exitcode for rival in rivals] == [0, 0]
    assert load("kmnist", data_dir, anew=True).name == "kmnist"
    assert not list(data_dir.glob(".*"))
    assert [path.name for path in records_dir("kmnist", data_dir).parent.iterdir()] == ["3.0.1"]
