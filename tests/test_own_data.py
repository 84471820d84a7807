"""The reader's own images: arrays, and sets that TFDS has prepared under any name."""

import io
import json
import socket
from dataclasses import replace

import numpy as np
import pytest
from interrupted import killed_after_noting
from PIL import Image

from experiments import elu, proportional
from experiments.__main__ import STUDIES
from relujax import report, runner
from relujax.cli import main
from relujax.data import Data, UnitRange, as_evaluated
from relujax.datasets import load_images
from relujax.errors import InputError
from relujax.from_tfds import from_tfds
from relujax.study import adapt
from relujax.trial import describe, trial_id

CLASSES = 4


def pictures(count, seed, side=28, channels=1):
    """Noise with a bright corner: which one of four is the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = generator.integers(0, 100, (count, side, side, channels), dtype=np.uint8)
    for image, label in zip(images, labels):
        row, column = divmod(label, 2)
        image[row * side // 2 :, column * side // 2 :][: side // 2, : side // 2] += 120
    return images, labels


IMAGES, LABELS = pictures(400, seed=0)
TEST = dict(zip(("test_images", "test_labels"), pictures(80, seed=1)))
OWN = Data.from_arrays(IMAGES, LABELS, **TEST, name="corners")


def test_the_same_images_in_any_order_are_the_same_data_and_one_pixel_makes_others():
    order = np.random.default_rng(2).permutation(len(IMAGES))
    assert Data.from_arrays(IMAGES[order], LABELS[order], **TEST, name="corners") == OWN
    changed = IMAGES.copy()
    changed[7, 3, 3] ^= 1
    other = Data.from_arrays(changed, LABELS, **TEST, name="corners")
    assert other != OWN
    ids = {trial_id(adapt(elu.fig_2_median_activation(), data=data).trials["ELU"]) for data in (OWN, other)}
    assert len(ids) == 2
    described = describe(OWN)
    assert json.loads(json.dumps(described)) == described and len(json.dumps(described)) < 400
    assert Data.from_description(described) == OWN


def test_images_and_labels_stay_together_and_cannot_be_changed():
    dataset = load_images(OWN)
    assert (dataset.label, dataset.num_classes, dataset.train_images.shape) == ("corners", 4, (400, 28, 28, 1))
    own = {(image.tobytes(), label) for image, label in zip(dataset.train_images, dataset.train_labels)}
    assert own == {(image.tobytes(), label) for image, label in zip(IMAGES, LABELS)}
    # Sorted by class as they may be given, the last ones would be all of one class.
    assert np.bincount(dataset.train_labels[-40:], minlength=4).min() > 0
    with pytest.raises(ValueError, match="read-only"):
        dataset.test_images[0] = 0


def test_floats_keep_their_precision_and_any_range_is_that_of_pixels():
    unit = np.random.default_rng(3).random((8, 9, 9)).astype(np.float32)  # grey, without an axis for it
    labels = np.arange(8) % 2
    for low, high in ((0, 1), (-1, 1), (0, 255), (-1024, 3071)):
        given = low + unit.astype(np.float64) * (high - low)
        data = Data.from_arrays(given, labels, test_images=given, test_labels=labels, value_range=(low, high))
        assert data.own.shape == (9, 9, 1)
        seen = np.asarray(as_evaluated(data, load_images(data).train_images))[..., 0]
        np.testing.assert_allclose(np.sort(seen.ravel()), np.sort(unit.ravel()), atol=1e-6)


HOT = np.eye(CLASSES, dtype=int)[LABELS]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": IMAGES[0, 0]}, r"images must have shape \(N, H, W, C\).*got \(28, 1\)"),
        ({"images": IMAGES.astype(int)}, "images must be uint8 or floats; got int64"),
        (
            {"images": np.moveaxis(IMAGES, -1, 1)},
            r"channels last: np.moveaxis\(images, 1, -1\); got \(400, 1, 28, 28\)",
        ),
        ({"images": IMAGES / 1.0}, r"images must lie in value_range, \(0, 1\); got 0 to 219"),
        ({"images": np.full((400, 28, 28), np.nan)}, "got nan to nan"),
        ({"images": IMAGES / 255}, "the same type; got float32 and uint8"),
        ({"images": IMAGES[:, :20]}, r"the same height, width and channels; got \(20, 28, 1\) and \(28, 28, 1\)"),
        ({"images": IMAGES / 255, "value_range": (1, 0)}, r"black < white; got \(1, 0\)"),
        ({"images": IMAGES / 255, "value_range": (0, np.inf)}, r"finite, with black < white; got \(0, inf\)"),
        ({"images": IMAGES / 255, "value_range": 1}, "value_range must be .*; got 1"),
        ({"images": [[[1, 2]], [[1]]]}, "images must be one array, all parts of equal shape"),
        ({"labels": LABELS + 2**40, "num_classes": 4}, "between 0 and 3, the largest class; got 1099511627776 to"),
        ({"labels": LABELS + 2**32}, "every label from 0 to 4294967299 needs an image, .*; none has 0"),
        ({"num_classes": 10**12}, "num_classes must be a whole number from 1 to 2147483647; got 1000000000000"),
        ({"num_classes": 0}, "num_classes must be a whole number .*; got 0"),
        ({"images": IMAGES[:399]}, "labels must be one per image; got 400 for 399 images"),
        ({"labels": HOT}, r"integers of shape \(N,\): np.argmax\(labels, 1\); got int64 of shape \(400, 4\)"),
        ({"labels": LABELS / 1.0}, "labels must be integers.*got float64"),
        ({"labels": LABELS + 1}, "every label from 0 to 4 needs an image, or name num_classes; none has 0"),
        ({"labels": LABELS - 1}, "labels must lie between 0 and 2, the largest class; got -1 to 2"),
        ({"test_labels": np.full(80, 9)}, "test_labels must lie between 0 and 3, the largest class; got 9 to 9"),
        ({"num_classes": 3}, "between 0 and 2, the largest class; got 0 to 3"),
        ({"name": "mnist"}, "need a name that no dataset has; got 'mnist'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(changes, message):
    arguments = {"images": IMAGES, "labels": LABELS, **TEST, "name": "corners"} | changes
    with pytest.raises(InputError, match=message) as refused:
        Data.from_arrays(**arguments)
    assert "\n" not in str(refused.value)


def test_a_study_on_own_images_trains_resumes_and_is_reported_as_a_rehearsal(tmp_path):
    study = adapt(elu.fig_2_median_activation(), data=OWN, epochs=3, runs=1)
    shallow = study.trials["ELU"].model.clone(depth=2, width=32)
    study = replace(study, trials={label: replace(trial, model=shallow) for label, trial in study.trials.items()})
    trial = study.trials["ELU"]
    assert trial.model.num_classes == CLASSES and trial.data.validation == round(400 / 6)
    (whole,) = runner.fit(trial, seeds=(0,), workdir=tmp_path / "whole")
    assert whole.status == "done" and whole.environment["dataset"] == "corners"
    assert whole.last("train_loss") < 0.5 < whole.history[0]["train_loss"]

    with killed_after_noting(2):
        runner.run(study, workdir=tmp_path / "killed", name="own", only=["ELU"], checkpoint_every=0)
    results = runner.run(study, workdir=tmp_path / "killed", name="own", only=["ELU"])
    np.testing.assert_array_equal(results["ELU"][0].curve("train_loss"), whole.curve("train_loss"))
    assert "corners instead of mnist" in report.markdown(study, results)

    changed = Data.from_arrays(IMAGES[1:], LABELS[1:], **TEST, name="corners")
    with pytest.raises(InputError, match=r"data\.own\.digest"):
        trials = {"ELU": replace(trial, data=replace(trial.data, own=changed.own))}
        again = replace(study, trials=trials, claims=(), panels=())
        runner.run(again, workdir=tmp_path / "killed", name="own", only=["ELU"])
    named = replace(trial, data=replace(trial.data, own=replace(OWN.own, arrays=None)))
    with pytest.raises(InputError, match="'corners' are not at hand"):
        runner.fit(named, seeds=(1,), workdir=tmp_path / "whole")


def test_a_network_is_refused_where_the_own_images_do_not_fit_it(tmp_path):
    study = elu.fig_2_median_activation()
    few = Data.from_arrays(IMAGES[:40], LABELS[:40], **TEST, name="few")
    with pytest.raises(InputError, match="batch size must be at most 33, the training images; got 64"):
        runner.run(adapt(study, data=few), workdir=tmp_path)
    assert not list(tmp_path.iterdir())


def write_tfds(data_dir, name, splits, image=None, label=None, file_format="array_record"):
    """Prepares {split: [(PIL image, class)]} under `name`, as `tfds build` does."""
    import tensorflow_datasets as tfds

    def encoded(picture):
        made = io.BytesIO()
        picture.save(made, "PNG")
        return made.getvalue()

    class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")
        url_infos = None

        def _info(self):
            features = {
                "picture": image or tfds.features.Image(encoding_format="png"),
                "kind": label or tfds.features.ClassLabel(num_classes=CLASSES),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("picture", "kind"))

        def _split_generators(self, dl_manager):
            return {
                split: ((i, {"picture": encoded(each), "kind": kind}) for i, (each, kind) in enumerate(examples))
                for split, examples in splits.items()
            }

        def _generate_examples(self):
            raise NotImplementedError

    Records.name = name
    tfds.disable_progress_bar()
    Records(data_dir=data_dir, file_format=file_format).download_and_prepare()


def plain_pictures(count):
    """Pictures of one colour and different sizes: their red says which class they are of."""
    return [
        (Image.new("RGB", (30 + i % 5, 28 + i % 7), (50 * (i % CLASSES), i, 200)), i % CLASSES) for i in range(count)
    ]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RELUJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RELUJAX_DATA", raising=False)


def test_any_set_that_tfds_has_prepared_can_be_trained_on_and_reported(cache, tmp_path, monkeypatch, capsys):
    data_dir = tmp_path / "data"
    write_tfds(data_dir, "leaves", {"train": plain_pictures(250)})
    with pytest.raises(InputError, match=r"leaves differ in size: name the side of squares, e.g. leaves@64"):
        from_tfds("leaves", data_dir)
    data = from_tfds("leaves@16", data_dir)
    assert data.name == "leaves@16 (tested on a fifth of its training split)"
    assert (data.own.shape, data.own.train, data.own.test, data.own.num_classes) == ((16, 16, 3), 200, 50, 4)
    dataset = load_images(data)
    for images, labels in ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels)):
        assert (images == images[:, :1, :1]).all() and (images[:, 0, 0, 0] == 50 * labels).all()
    assert len({*dataset.train_images[:, 0, 0, 1], *dataset.test_images[:, 0, 0, 1]}) == 250

    def refuse(*args, **options):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)  # F38: what is prepared needs no network
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    run = ["run", "elu.fig_2_median_activation", "--only", "ELU", "--epochs", "1", "--runs", "1"]
    run += ["--data", "leaves@16", "--data-dir", str(data_dir), "--workdir", str(tmp_path / "runs")]
    with monkeypatch.context() as patched:  # what was decoded is not decoded again
        patched.setattr("relujax.from_tfds.sources_of", None)
        assert main(STUDIES, run) == 0
    monkeypatch.setattr("relujax.obtain.from_tfds", None)  # a report needs no images
    assert main(STUDIES, ["report", "--workdir", str(tmp_path / "runs")]) == 0
    assert "leaves@16 (tested on a fifth of its training split) instead of mnist" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_cache_that_cannot_be_written_costs_only_time(cache, tmp_path, caplog):
    write_tfds(tmp_path / "data", "leaves", {"train": plain_pictures(10)})
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert from_tfds("leaves@16", tmp_path / "data").own.train == 8
    assert "not cached" in caplog.text


def test_prepared_pictures_of_one_size_are_taken_as_they_are(cache, tmp_path):
    import tensorflow_datasets as tfds

    images, labels = pictures(60, seed=0, side=10, channels=3)
    train = [(Image.fromarray(image), int(label)) for image, label in zip(images, labels)]
    image = tfds.features.Image(shape=(10, 10, 3), encoding_format="png")
    write_tfds(tmp_path, "corners", {"train": train[:40], "validation": train[40:]}, image)
    data = from_tfds("corners", tmp_path)
    expected = Data.from_arrays(images[:40], labels[:40], test_images=images[40:], test_labels=labels[40:])
    assert data.own == expected.own and data.name == "corners (tested on its validation split)"
    (cached,) = (tmp_path / "cache/arrays").glob("*/train_images.npy")
    damaged = bytearray(cached.read_bytes())
    damaged[-5] ^= 1
    cached.write_bytes(damaged)
    assert from_tfds("corners", tmp_path).own == expected.own
    study = adapt(proportional.table_1_plain_cifar100(), data=data)
    assert all(trial.model.num_classes == CLASSES for trial in study.trials.values())
    assert study.trials["Paired Module, 38"].data.normalize != UnitRange()  # the study's


def test_sets_that_are_not_prepared_or_of_no_use_are_refused(cache, tmp_path):
    import tensorflow_datasets as tfds

    with pytest.raises(InputError, match=r"unknown dataset 'mnits': did you mean 'mnist'\? .*prepared in"):
        from_tfds("mnits", tmp_path)
    with pytest.raises(InputError, match=r"a size is a number of pixels, e.g. leaves@64; got 'leaves@big'"):
        from_tfds("leaves@big", tmp_path)
    write_tfds(tmp_path, "only_test", {"test": plain_pictures(4)})
    with pytest.raises(InputError, match="only_test has no split 'train' to learn from; it has test"):
        from_tfds("only_test@9", tmp_path)
    write_tfds(tmp_path, "regression", {"train": plain_pictures(4)}, label=tfds.features.Scalar(np.float32))
    with pytest.raises(InputError, match=r"no set of images with one class each; its features are .*kind"):
        from_tfds("regression@9", tmp_path)
