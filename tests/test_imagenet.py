"""The way of ImageNet, on records of its format with 24 + 7 pictures: memory maps, streamed training, crops."""

import dataclasses
import io
import os
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interrupted import Killed, killed_after_noting
from PIL import Image

from experiments import elu
from experiments.__main__ import STUDIES
from relujax import datasets, fit, run, runner
from relujax.cli import main
from relujax.data import Data, Flip, GcnZca, PerPixelMean, UnitRange, as_evaluated, augment
from relujax.datasets import DATASETS, load, records_dir
from relujax.download import prepare
from relujax.errors import InputError
from relujax.models.mlp import MLP
from relujax.models.plain import Plain
from relujax.pictures import square
from relujax.probes import MedianActivation, UnitMedians
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.sharding import make_mesh, over_runs
from relujax.study import adapt, rehearsal_reasons
from relujax.train import Split, Streamed, compile_programs
from relujax.trial import Trial

NAME = "imagenet2012"
SIZES = [(256, 256), (300, 260), (90, 40), (500, 375), (17, 33)]  # (width, height)
TRIAL = Trial(
    model=MLP(depth=2, width=16, num_classes=1000, activation="elu"),
    data=Data(name=NAME, normalize=PerPixelMean(), augment=(Flip(),), crop=24),
    recipe=Recipe(length=Epochs(2), batch_size=5, optimizer=Sgd(momentum=0.9), schedule=Constant(0.05)),
    probes=(MedianActivation(images=6),),
)


def jpeg(index, mode="RGB"):
    width, height = SIZES[index % len(SIZES)]
    small = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    made = io.BytesIO()
    Image.fromarray(small).resize((width, height)).convert(mode).save(made, "JPEG")
    return made.getvalue()


def write_records(data_dir, train=24, validation=7, label=None):
    """As TFDS's own builder writes them, whose test split has no labels."""
    import tensorflow_datasets as tfds

    def examples(split, count):
        for i in range(count):
            # One picture is grey, as a few of ImageNet's are.
            picture = jpeg(i + 100 * (split != "train"), "L" if i == 3 else "RGB")
            number = -1 if split == "test" else (41 * i % 1000 if label is None else label)
            yield f"{split}_{i}.JPEG", {"image": picture, "label": number, "file_name": f"{split}_{i}.JPEG"}

    class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(DATASETS[NAME].version)
        name = NAME
        url_infos = None

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1000),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            sizes = {"train": train, "validation": validation, "test": 3}
            return {split: examples(split, count) for split, count in sizes.items()}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    Records(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return records_dir(NAME, data_dir)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"))


@pytest.fixture
def data_dir(original, tmp_path):
    """A copy to damage."""
    copy = records_dir(NAME, tmp_path / "data")
    copy.mkdir(parents=True)
    for path in original.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RELUJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RELUJAX_DATA", raising=False)
    return tmp_path / "cache" / "arrays"


@pytest.fixture(scope="module")
def imagenet(original, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELUJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load(NAME, original.parents[1])


def test_the_central_square_is_resized():
    noise = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8)

    def encoded(pixels):
        made = io.BytesIO()
        Image.fromarray(pixels).save(made, "PNG")
        return made.getvalue()

    central = noise[:, 12:28]
    np.testing.assert_array_equal(square(encoded(noise), 16), central)
    np.testing.assert_array_equal(square(encoded(noise.transpose(1, 0, 2)), 16), central.transpose(1, 0, 2))
    # Half the size: a triangle over four pixels, so 1/8, 3/4 and 1/8 of three that were doubled.
    doubled = square(encoded(noise.repeat(2, 0).repeat(2, 1)), 16).astype(int)
    rows = central[:-2] / 8 + central[1:-1] * 0.75 + central[2:] / 8
    expected = rows[:, :-2] / 8 + rows[:, 1:-1] * 0.75 + rows[:, 2:] / 8
    np.testing.assert_allclose(doubled[1:-1, 1:-1], expected, atol=1.01)
    assert square(jpeg(0, "L"), 8).shape == (8, 8, 3)


def test_records_become_memory_maps_in_record_order(original, imagenet):
    import tensorflow_datasets as tfds

    assert imagenet.label == "imagenet2012 (24 + 7 images)" and imagenet.num_classes == 1000
    assert imagenet.train_images.shape == (24, 256, 256, 3) and imagenet.test_images.shape == (7, 256, 256, 3)
    for images in (imagenet.train_images, imagenet.test_images):
        assert isinstance(images, np.memmap) and images.dtype == np.uint8 and not images.flags.writeable
    assert imagenet.train_labels.dtype == np.int32
    builder = tfds.builder_from_directory(original)
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert [example["label"] for example in source] == imagenet.train_labels.tolist()
    np.testing.assert_array_equal(square(source[5]["image"], 256), imagenet.train_images[5])


def test_decoding_happens_once_and_every_byte_can_be_verified(data_dir, cache, imagenet, monkeypatch):
    steps = []
    assert prepare(NAME, data_dir, progress=lambda *step: steps.append(step)) == records_dir(NAME, data_dir)
    assert steps == [("train images", 24, 24), ("test images", 7, 7)]
    monkeypatch.setattr(datasets, "write_squares", lambda *args: pytest.fail("decoded again"))
    for again in (load(NAME, data_dir), load(NAME, data_dir, anew=True)):
        assert again.digest == imagenet.digest and again.label == imagenet.label
    assert [path.name[:13] for path in cache.iterdir()] == ["imagenet2012-"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_damaged_maps_are_decoded_again(data_dir, cache, damage):
    first = load(NAME, data_dir)
    (cached,) = cache.iterdir()
    path = cached / "test_images.npy"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    if damage == "remove":
        path.unlink()
    elif damage == "manifest":
        (cached / "manifest.json").write_text("{")
    else:
        path.write_bytes(content[: -1 if damage == "truncate" else None])
    # A flipped byte is only seen where every byte is read.
    again = load(NAME, data_dir, anew=True) if damage == "flip" else load(NAME, data_dir)
    assert again.digest == first.digest and datasets.digest_of(vars(again)) == first.digest


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing", "info", "tfrecord"])
def test_damaged_records_are_refused_in_one_line(data_dir, cache, damage):
    records = records_dir(NAME, data_dir)
    (path,) = records.glob("*validation*")
    content = bytearray(path.read_bytes())
    info = records / "dataset_info.json"
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    elif damage == "info":
        info.write_text("<html>")
    elif damage == "tfrecord":
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    else:
        path.write_bytes(content[: len(content) // 2 if damage == "truncate" else 0])
    with pytest.raises(InputError, match=r"imagenet2012 in .* cannot be read") as refused:
        load(NAME, data_dir)
    assert "\n" not in str(refused.value)
    assert damage != "tfrecord" or "array_record" in str(refused.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_labels_that_are_none_are_refused(tmp_path, cache):
    write_records(tmp_path / "unlabelled", train=2, validation=2, label=-1)
    with pytest.raises(InputError, match="train labels expected 0 to 999, got -1 to -1"):
        load(NAME, tmp_path / "unlabelled")
    assert not list(cache.iterdir())


def test_what_is_half_written_is_never_taken_as_ready(data_dir, cache, imagenet, monkeypatch):
    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(datasets, "_write_manifest", killed)
        load(NAME, data_dir)
    assert not list(cache.iterdir())
    old, new = cache / f".{NAME}-old", cache / f".{NAME}-new"  # as kill -9 leaves them
    for left in (old, new):
        left.mkdir()
        (left / "train_images.npy").write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert load(NAME, data_dir).digest == imagenet.digest
    assert not old.exists() and new.exists()


def test_a_disk_without_room_is_named_before_anything_is_decoded(data_dir, monkeypatch):
    monkeypatch.setattr(datasets.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**6}))
    with pytest.raises(InputError, match=r"takes 0 GB in .*, which has 0 GB left: set RELUJAX_CACHE"):
        load(NAME, data_dir)


def test_only_the_official_numbers_give_the_official_name(data_dir, monkeypatch):
    monkeypatch.setitem(DATASETS, NAME, replace(DATASETS[NAME], train=24, test=7))
    assert load(NAME, data_dir).label == NAME


def test_it_cannot_be_downloaded_and_says_how_it_is_prepared(tmp_path, capsys):
    for arguments in (["data", NAME], ["run", "elu.fig_6_imagenet", "--workdir", str(tmp_path / "w")]):
        assert main(STUDIES, [*arguments, "--data-dir", str(tmp_path / "none")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert all(word in line for word in ("image-net.org", "tfds build", "TensorFlow", "--data-dir"))
    assert not list(tmp_path.iterdir())


def test_the_window_is_random_in_training_and_central_otherwise():
    data = Data(name=NAME, normalize=UnitRange(), crop=2)
    images = np.tile(np.arange(20, dtype=np.float32).reshape(1, 4, 5, 1), (300, 1, 1, 1))
    windows = np.asarray(augment(data, jax.random.split(jax.random.key(0), 300), jnp.asarray(images)))
    assert windows.shape == (300, 2, 2, 1)
    assert {window.tobytes() for window in windows} == {
        images[0, row : row + 2, column : column + 2].tobytes() for row in range(3) for column in range(4)
    }
    np.testing.assert_allclose(as_evaluated(data, images)[0, ..., 0] * 255, [[6, 7], [11, 12]], rtol=1e-6)
    with pytest.raises(InputError, match="crop must be at least 1; got 0"):
        replace(data, crop=0)


def trained(trial, train, test, streamed):
    mesh = make_mesh(2, 2)
    programs = compile_programs(trial, mesh, train.images.shape, streamed)
    seeds = jax.device_put(np.arange(2), over_runs(mesh))
    states = programs.init(seeds, train.take(np.arange(1)))
    for _ in range(2):
        states = programs.epoch(states, seeds, train, lambda steps: False)
    return jax.device_get((states, programs.measure(states, train, {"test": test})))


def test_streamed_and_in_memory_training_give_the_same(imagenet):
    transform = TRIAL.data.normalize.fit(imagenet.train_images)
    pairs = ((imagenet.train_images, imagenet.train_labels), (imagenet.test_images, imagenet.test_labels))
    streams = [Streamed(images, labels, transform) for images, labels in pairs]
    splits = [Split(jnp.array(transform(images)), jnp.array(labels)) for images, labels in pairs]
    ours, theirs = trained(TRIAL, *streams, True), trained(TRIAL, *splits, False)
    assert ours[1].keys() == theirs[1].keys() >= {"test_top5_error", "median_activation", "train_loss"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), ours, theirs)
    assert ours[0].step.tolist() == [8, 8]  # 24 images in batches of 5, twice


def test_streamed_evaluation_counts_each_image_once(imagenet):
    mesh = make_mesh(1, 1)
    trial = replace(TRIAL, recipe=replace(TRIAL.recipe, batch_size=3))  # 7 images: the last batch has one
    transform = trial.data.normalize.fit(imagenet.train_images)
    test = Streamed(imagenet.test_images, imagenet.test_labels, transform)
    programs = compile_programs(trial, mesh, imagenet.train_images.shape, True)
    states = programs.init(jnp.array([3]), test.take(np.arange(1)))
    found = programs.measure(states, test, {"test": test})
    pixels = imagenet.test_images / 255 - imagenet.train_images.mean(0) / 255
    params = jax.tree.map(lambda leaf: leaf[0], states.params)
    logits = trial.model.apply({"params": params}, jnp.float32(pixels[:, 116:140, 116:140]), train=False)
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    rank = (log_p > log_p[np.arange(7), imagenet.test_labels][:, None]).sum(1)
    np.testing.assert_allclose(found["test_loss"], [-log_p[np.arange(7), imagenet.test_labels].mean()], rtol=1e-5)
    np.testing.assert_allclose(found["test_error"], [(rank > 0).mean()], rtol=1e-6)
    np.testing.assert_allclose(found["test_top5_error"], [(rank > 4).mean()], rtol=1e-6)


def test_a_convolutional_net_trains_with_images_held_out(data_dir, tmp_path):
    data = replace(TRIAL.data, validation=6, crop=16)
    trial = replace(TRIAL, model=Plain(5, 1000), data=data, probes=(), recipe=TRIAL.recipe.lasting(1))
    (run,) = fit(trial, seeds=(0,), workdir=tmp_path / "w", data_dir=data_dir)
    assert run.status == "done" and [epoch["step"] for epoch in run.history] == [3]  # 18 images in batches of 5
    assert np.isfinite([run.last(f"{part}_top5_error") for part in ("train", "validation", "test")]).all()
    assert run.environment["dataset"] == "imagenet2012 (24 + 7 images)"


def test_a_killed_run_goes_on_and_ends_the_same(data_dir, tmp_path):
    (whole,) = fit(TRIAL, seeds=(4,), workdir=tmp_path / "whole", data_dir=data_dir)
    with killed_after_noting(2):
        fit(TRIAL, seeds=(4,), workdir=tmp_path / "killed", data_dir=data_dir, checkpoint_every=0)
    (resumed,) = fit(TRIAL, seeds=(4,), workdir=tmp_path / "killed", data_dir=data_dir)
    for metric in ("train_loss", "test_loss", "test_top5_error", "median_activation"):
        assert resumed.curve(metric).tolist() == whole.curve(metric).tolist()


def test_the_study_of_figure_6_runs_and_is_a_rehearsal_on_few_images(data_dir, tmp_path):
    study = elu.fig_6_imagenet()
    small = {
        label: replace(
            trial,
            model=MLP(depth=1, width=8, num_classes=1000, activation=trial.model.activation),
            recipe=replace(TRIAL.recipe, length=Epochs(1), batch_size=8),
        )
        for label, trial in study.trials.items()
    }
    study = replace(study, trials=small, runs=2)
    results = run(study, only=("ELU",), workdir=tmp_path / "w", data_dir=data_dir)
    assert all(np.isfinite(run.last(metric)) for runs in results.values() for run in runs for metric in study.metrics)
    assert rehearsal_reasons(study, results) == ("imagenet2012 (24 + 7 images) instead of imagenet2012",)


def test_on_digits_figure_6_has_no_crop_and_ten_outputs():
    study = adapt(elu.fig_6_imagenet(), data="digits")
    for trial in study.trials.values():
        runner.check(trial)
        assert trial.data.crop is None and trial.model.num_classes == 10
    assert study.rehearsal == ("digits instead of imagenet2012",)
    assert all(trial.data.crop == 224 for trial in elu.fig_6_imagenet().trials.values())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": replace(TRIAL.data, crop=257)}, "crop must be at most 256 for imagenet2012; got 257"),
        ({"data": replace(TRIAL.data, normalize=GcnZca())}, "GcnZca needs all images in memory.*PerPixelMean"),
        ({"probes": (UnitMedians(),)}, "a probe of all training images"),
        ({"recipe": dataclasses.replace(TRIAL.recipe, batch_size=25)}, "at most 24, the training images of imagenet"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(data_dir, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        fit(replace(TRIAL, **change), seeds=(0,), workdir=tmp_path / "w", data_dir=data_dir)
    assert not (tmp_path / "w").exists()
