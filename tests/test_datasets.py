import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from relujax import datasets
from relujax.datasets import DATASETS, PARTS, check, decode, hold_out, load
from relujax.download import LABEL_COLUMNS, _write_records
from relujax.errors import InputError

REAL = Path(os.environ.get("RELUJAX_TEST_DATA") or Path(__file__).parents[1] / "../shared/data/tfds").resolve()
RECORD_ORDER = {  # SHA-256 of the decoded arrays in record order: train images, train labels, test images, test labels
    "mnist": "59edd5ea 2736d7d4 758b7993 2c77a73d",
    "cifar10": "a29ce3e1 bb256d2e 3f17c7db 5ed284f7",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RELUJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RELUJAX_DATA", raising=False)
    return tmp_path / "cache"


def make(name, train=40, test=20, seed=0):
    """Balanced random arrays in the shape of `name`."""
    generator = np.random.default_rng(seed)
    facts = DATASETS[name]
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (count, *facts.shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % facts.num_classes
    return arrays


def shrink(monkeypatch, name, arrays, **changes):
    """Let the facts of `name` be those of `arrays`."""
    pixels = arrays["train_images"].reshape(-1, DATASETS[name].shape[-1]).astype(float)
    published = datasets.Published(tuple(pixels.mean(0)), tuple(pixels.std(0)), 255, 3, "these arrays")
    counts = {"train": len(arrays["train_labels"]), "test": len(arrays["test_labels"])}
    facts = dataclasses.replace(DATASETS[name], **counts, labels={}, published=published)
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(facts, **changes))


def write(name, arrays, data_dir):
    columns = {}
    for split in ("train", "test"):
        labels = dict.fromkeys(LABEL_COLUMNS.get(name, ("label",)), arrays[f"{split}_labels"] % 20)
        columns[split] = labels | {"image": arrays[f"{split}_images"], "label": arrays[f"{split}_labels"]}
    _write_records(name, columns, data_dir, lambda *progress: None)
    return datasets.records_dir(name, data_dir)


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """Small records under the name fashion_mnist."""
    arrays = make("fashion_mnist")
    shrink(monkeypatch, "fashion_mnist", arrays)
    return write("fashion_mnist", arrays, tmp_path / "data")


def same(a, b):
    return a.digest == b.digest and all(np.array_equal(getattr(a, part), getattr(b, part)) for part in PARTS)


def test_digits_are_what_they_always_were():
    digits = load("digits")
    assert digits.digest == "490e7c2bb07745e77a5b7c8c71b501b7000b2d7b1d05b530dc71e96fea4b9c35"
    assert digits.label == "digits" and digits.num_classes == 10
    assert digits.train_images.shape == (1437, 28, 28, 1) and digits.test_images.shape == (360, 28, 28, 1)
    assert digits.train_images.dtype == np.uint8 and digits.train_labels.dtype == np.int32
    assert digits.train_images.max() == 255 and not digits.train_images[:, :4].any()
    assert np.bincount(digits.test_labels).min() > 20


def test_verified_arrays_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        load("digits").train_images[0, 0, 0, 0] = 1


def test_unknown_name_shows_the_nearest():
    with pytest.raises(InputError, match="did you mean 'mnist'"):
        load("mnits")


def test_missing_data_name_the_command(tmp_path):
    with pytest.raises(InputError, match="python -m experiments data kmnist"):
        load("kmnist", tmp_path)
    with pytest.raises(InputError, match="cache/data/mnist"):
        load("mnist")


@pytest.mark.parametrize("validation", [0, 1, 1436])
def test_hold_out_splits_the_training_images(validation):
    digits = load("digits")
    train_images, train_labels, val_images, val_labels = hold_out(digits, validation)
    assert len(val_images) == len(val_labels) == validation
    np.testing.assert_array_equal(np.concatenate([train_images, val_images]), digits.train_images)
    np.testing.assert_array_equal(np.concatenate([train_labels, val_labels]), digits.train_labels)


@pytest.mark.parametrize("validation", [-1, 1437, 5000])
def test_hold_out_refuses_what_leaves_no_training_image(validation):
    with pytest.raises(InputError, match=f"below 1437.*got {validation}"):
        hold_out(load("digits"), validation)


def test_any_order_gives_the_same_dataset(monkeypatch):
    arrays = make("kmnist")
    shrink(monkeypatch, "kmnist", arrays)
    order = np.random.default_rng(1).permutation(40)
    other = arrays | {part: arrays[part][order] for part in ("train_images", "train_labels")}
    assert same(check("kmnist", arrays, where="a"), check("kmnist", other, where="b"))


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_records_round_trip_and_the_cache_gives_the_same(name, tmp_path, monkeypatch):
    arrays = make(name, train=200, test=100)
    shrink(monkeypatch, name, arrays)
    write(name, arrays, tmp_path)
    first = load(name, tmp_path)
    assert first.label == name and same(first, check(name, arrays, where="memory"))
    monkeypatch.setattr(datasets, "decode", None)  # from here on the cache has to do
    assert same(load(name, tmp_path), first)


def test_tfds_itself_reads_the_records(fashion):
    import tensorflow_datasets as tfds

    source = tfds.data_source("fashion_mnist", split="train", data_dir=fashion.parents[1], download=False)
    assert len(source) == 40 and source[0]["image"].shape == (28, 28, 1)


def test_environment_names_the_data_directory(fashion, monkeypatch):
    monkeypatch.setenv("RELUJAX_DATA", str(fashion.parents[1]))
    assert load("fashion_mnist").train_images.shape == (40, 28, 28, 1)


def test_damaged_cache_is_replaced(fashion, cache):
    first = load("fashion_mnist", fashion.parents[1])
    (cached,) = (cache / "arrays").iterdir()
    for damage in ("flip", "truncate", "remove", "object"):
        path = cached / "train_images.npy"
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[-1] ^= 1
            path.write_bytes(content)
        elif damage == "truncate":
            path.write_bytes(content[:100])
        elif damage == "object":
            np.save(path, np.array([{}], object), allow_pickle=True)
        else:
            (cached / "manifest.json").unlink()
        assert same(load("fashion_mnist", fashion.parents[1]), first)
    assert json.loads((cached / "manifest.json").read_text())["digest"] == first.digest
    assert [path.name for path in (cache / "arrays").iterdir()] == [cached.name]


def test_unwritable_cache_costs_only_time(fashion, cache, caplog):
    cache.write_text("a file where a folder should be")
    assert load("fashion_mnist", fashion.parents[1]).label == "fashion_mnist"
    assert "not cached" in caplog.text


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "half", "info"])
def test_damaged_records_are_refused_even_if_they_were_cached(fashion, damage):
    load("fashion_mnist", fashion.parents[1])
    (records,) = fashion.glob("*train*")
    content = bytearray(records.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        records.write_bytes(content)
    elif damage in ("truncate", "empty"):
        records.write_bytes(content[: len(content) // 2 if damage == "truncate" else 0])
    elif damage == "half":
        records.unlink()
    else:
        (fashion / "dataset_info.json").write_text("<html>")
    with pytest.raises(InputError, match="fashion_mnist"):
        load("fashion_mnist", fashion.parents[1])


def test_other_data_under_the_name_are_refused(monkeypatch):
    right, wrong = make("fashion_mnist"), make("fashion_mnist", seed=1)
    shrink(monkeypatch, "fashion_mnist", right)
    with pytest.raises(InputError, match=r"mean of the training pixels.*expected.*got"):
        check("fashion_mnist", wrong, where="here")
    with pytest.raises(InputError, match="train images per class expected 4, got"):
        check("fashion_mnist", right | {"train_labels": right["train_labels"] // 2}, where="here")
    shrink(monkeypatch, "fashion_mnist", right, published=None, labels={"0123": "known"})
    with pytest.raises(InputError, match=r"SHA-256 of the arrays expected 0123, got [0-9a-f]{64}"):
        check("fashion_mnist", right, where="here")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"train_images": np.zeros((40, 32, 32, 3), np.uint8)}, "train images expected .40, 28, 28, 1"),
        ({"train_images": np.zeros((40, 28, 28, 1))}, "float64"),
        ({"test_labels": np.zeros(19, int)}, "test labels expected"),
        ({"test_labels": np.full(20, 10)}, "expected 0 to 9, got 10 to 10"),
        ({"train_labels": np.full(40, -1)}, "expected 0 to 9, got -1 to -1"),
        ({"train_labels": np.arange(40) + 250}, "got 250 to 289"),
    ],
)
def test_wrong_shapes_and_labels_are_refused(monkeypatch, change, words):
    arrays = make("kmnist")
    shrink(monkeypatch, "kmnist", arrays)
    with pytest.raises(InputError, match=words):
        check("kmnist", arrays | change, where="here")


def test_stated_digest_has_to_agree(fashion):
    (fashion / datasets.STATED_DIGEST).write_text("0" * 64)
    with pytest.raises(InputError, match=f"altered.*expected {'0' * 64}, got"):
        load("fashion_mnist", fashion.parents[1])


def needs_real(name):
    present = (REAL / name / DATASETS[name].version / "dataset_info.json").is_file()
    return pytest.mark.skipif(not present, reason=f"no {name} in {REAL}; set RELUJAX_TEST_DATA")


@pytest.mark.slow
@needs_real("mnist")
def test_real_mnist_in_record_order_and_canonical_order(monkeypatch):
    arrays = decode("mnist", datasets.records_dir("mnist", REAL))
    digests = [hashlib.sha256(arrays[part].astype(np.uint8).tobytes()).hexdigest()[:8] for part in PARTS]
    assert " ".join(digests) == RECORD_ORDER["mnist"]
    assert check("mnist", arrays, where="here").label == "mnist"
    with pytest.raises(InputError, match="does not hold fashion_mnist: train images per class expected 6000"):
        check("fashion_mnist", arrays, where="here")
    arrays["test_images"] = arrays["test_images"].copy()
    arrays["test_images"][0, 14, 14, 0] ^= 1
    with pytest.raises(InputError, match="SHA-256 of the arrays expected 6cf27fd9"):
        check("mnist", arrays, where="here")


@pytest.mark.slow
@needs_real("cifar10")
def test_recompressed_cifar10_is_labelled(tmp_path):
    arrays = decode("cifar10", datasets.records_dir("cifar10", REAL))
    digests = [hashlib.sha256(arrays[part].astype(np.uint8).tobytes()).hexdigest()[:8] for part in PARTS]
    assert " ".join(digests) == RECORD_ORDER["cifar10"]
    assert check("cifar10", arrays, where="here").label == "cifar10 (recompressed)"
    arrays["train_images"] = arrays["train_images"].copy()
    arrays["train_images"][0, 0, 0, 0] ^= 1
    with pytest.raises(InputError, match="mean of the training pixels"):
        check("cifar10", arrays, where="here")
