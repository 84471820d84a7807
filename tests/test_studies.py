"""Every study as data, and every trial of it traced; none is trained at length."""

import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from renew_golden import GOLDEN, every_trial

from experiments import elu, elu_measured, proportional, resnet_elu, tanhexp, tanhexp_measured
from experiments.__main__ import STUDIES
from relujax import datasets, figures, runner, tables
from relujax.activations import get_activation
from relujax.claims import (
    Below,
    Diverges,
    FallsFastest,
    Learns,
    LessVariance,
    ReachesFirst,
    StaysNearest,
    Widens,
    rows_of,
)
from relujax.errors import InputError
from relujax.recipe import make_optimizer
from relujax.study import Bars, ByDepth, Curves, Distribution, Images, Lines, Measurement, Profile, Study, adapt
from relujax.train import Split, init_state, probe, train_step
from relujax.trial import Trial, describe, differences, is_share, trial_id

ENTRIES = {name: function() for name, function in STUDIES.items()}
TRAINED = {name: entry for name, entry in ENTRIES.items() if isinstance(entry, Study)}
MEASURED = {name: entry for name, entry in ENTRIES.items() if isinstance(entry, Measurement)}


def phases(trial: Trial) -> list[Trial]:
    """The trial and all that it starts from."""
    return [trial] if trial.start_from is None else [*phases(trial.start_from), trial]


def first_places() -> dict[str, dict[str, Trial]]:
    """Study → trial id → trial, each trial in the first study that has it."""
    seen: set[str] = set()
    places: dict[str, dict[str, Trial]] = {}
    for name, study in TRAINED.items():
        own = {trial_id(phase): phase for trial in study.trials.values() for phase in phases(trial)}
        places[name] = {identity: trial for identity, trial in own.items() if identity not in seen}
        seen |= set(own)
    return {name: own for name, own in places.items() if own}


FIRST_PLACES = first_places()


@cache
def shallowest(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The network with as few layers as its family allows: deep ones repeat what is in it, and take long to trace."""
    for depth in range(4, getattr(model, "depth", 0)):
        shallow = model.clone(depth=depth)
        try:
            jax.eval_shape(partial(shallow.init, jax.random.key(0), train=False), jax.ShapeDtypeStruct(shape, "f4"))
        except InputError:
            continue
        return shallow
    return model


def batch_of(trial: Trial, count: int) -> Split:
    """What a program sees of `count` images: uint8, or floats where a normalisation was fitted to all of them first."""
    fitted = hasattr(trial.data.normalize, "fit")
    shape = (count, *datasets.DATASETS[trial.data.name].shape)
    images = jax.ShapeDtypeStruct(shape, jnp.float32 if fitted else jnp.uint8)
    return Split(images, jax.ShapeDtypeStruct((count,), jnp.int32))


@cache
def recorded(trial: Trial) -> tuple[frozenset[str], frozenset[str], dict[str, tuple[int, ...]]]:
    """Metrics of every epoch, metrics of the last one only, and arrays of the probes, by tracing a short step."""
    trial = replace(trial, model=shallowest(trial.model, batch_of(trial, 1).images.shape))
    optimizer, batch = make_optimizer(trial.recipe, steps_per_epoch=10), batch_of(trial, 4)
    state = jax.eval_shape(partial(init_state, trial, optimizer), jnp.int32(0), batch.images)
    after, metrics = jax.eval_shape(partial(train_step, trial, optimizer), state, batch, jax.random.key(0))
    jax.tree.map(
        lambda a, b: None if (a.shape, a.dtype) == (b.shape, b.dtype) else pytest.fail(f"{a}, {b}"), state, after
    )
    assert all(value.shape == () for value in metrics.values())
    probed = jax.eval_shape(partial(probe, trial), state, batch) if trial.probes else {}
    every_epoch = {f"train_{name}" for name in metrics} | {name for name, value in probed.items() if not value.shape}
    watched = "validation" if trial.data.validation else "test"
    every_epoch |= {f"{watched}_{name}" for name in metrics}
    last = {f"test_{name}" for name in metrics}
    return frozenset(every_epoch), frozenset(last), {name: value.shape for name, value in probed.items() if value.shape}


def network(trial: Trial, *also: str) -> str:
    """What networks have in common that differ in activation, number of classes and `also` alone, and their images."""
    varied = ("activation", "num_classes", *also)
    model = {name: value for name, value in describe(trial.model).items() if name not in varied}
    return json.dumps([model, batch_of(trial, 1).images.shape], sort_keys=True)


def step(trial: Trial) -> str:
    """What trials have in common whose steps are traced alike; depth only repeats what the shallowest network has."""
    description = describe(trial)
    data = {name: value for name, value in description["data"].items() if name != "name"}
    recipe = [description["recipe"]["loss"], description["recipe"]["optimizer"]["class"]]
    return json.dumps([network(trial, "depth"), data, recipe, description.get("probes")], sort_keys=True)


# Study → its networks that stand in no study before it.
FIRST_NETWORKS: dict[str, dict[str, Trial]] = {name: {} for name in FIRST_PLACES}
for _name, _trials in FIRST_PLACES.items():
    for _trial in _trials.values():
        if not any(network(_trial) in own for own in FIRST_NETWORKS.values()):
            FIRST_NETWORKS[_name][network(_trial)] = _trial
STEPS = {step(trial): trial for study in TRAINED.values() for trial in study.trials.values()}


def test_golden_studies_have_not_changed():
    golden, now = json.loads(GOLDEN.read_text()), every_trial()
    changes: dict[str, list[str]] = {}
    for name in sorted({*golden["studies"], *now["studies"]}):
        before, after = golden["studies"].get(name, {}), now["studies"].get(name, {})
        for row in sorted({*before, *after}):
            if row not in after or row not in before:
                changes.setdefault("row is gone" if row in before else "row is new", []).append(f"{name}: {row}")
            elif before[row] != after[row]:
                fields = differences(now["trials"][after[row]], golden["trials"][before[row]])
                changes.setdefault("; ".join(fields), []).append(f"{name}: {row}")
    for field in differences(now["pages"], golden["pages"]):
        changes.setdefault(field, []).append(field.partition(":")[0])
    told = [f"{what}\n    in {len(where)} rows, such as {where[0]}" for what, where in changes.items()]
    assert not told, "\n".join(
        ["trials are not those of tests/golden/studies.json:", *told, "if so meant: python tests/renew_golden.py"]
    )
    assert golden == now


def test_two_calls_give_equal_studies():
    for name, function in STUDIES.items():
        assert function() == ENTRIES[name], name


@pytest.mark.parametrize("name", FIRST_PLACES)
def test_every_trial_has_a_name_and_a_network_for_its_data(name):
    """Networks that differ in activation or number of classes alone are traced once; both have tests of their own."""
    for trial in FIRST_NETWORKS[name].values():
        optimizer, batch = make_optimizer(trial.recipe, steps_per_epoch=10), batch_of(trial, 1)
        state = jax.eval_shape(partial(init_state, trial, optimizer), jnp.int32(0), batch.images)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.params, state.batch_stats)))
    for trial in FIRST_PLACES[name].values():
        runner.check(trial)
        get_activation(getattr(trial.model, "activation", "relu"))
        assert json.loads(json.dumps(describe(trial))) == describe(trial)


def names_of(entry) -> list[tuple[str, list[str], list[str], bool]]:
    """(what, rows, metrics, whether they are read at every epoch) of everything that names rows or metrics."""
    every_row = list(entry.labels)
    best = entry.epoch == "best"
    found = [("columns", every_row, list(entry.metrics), False), ("first", every_row, list(entry.metrics[:1]), best)]
    found += [("reported", list(entry.reported), [], False)]
    for stated in entry.claims:
        claim = stated.claim
        rows = list(rows_of(claim))
        assert len(set(rows)) == len(rows) > (0 if isinstance(claim, Diverges | Learns | Below) else 1), stated
        if isinstance(claim, LessVariance):
            continue
        if isinstance(claim, Widens):
            assert replace(claim.wide, row=claim.narrow.row, others=claim.narrow.others) == claim.narrow
            claim = claim.narrow
        assert not claim.metric.endswith("_accuracy"), f"smaller is to be better: {stated}"
        curve = isinstance(claim, StaysNearest | FallsFastest | ReachesFirst | Diverges | Learns)
        found.append((stated.words, rows, [claim.metric], curve or getattr(claim, "epoch", "last") == "best"))
    for panel in entry.panels:
        match panel:
            case Curves():
                found.append((panel.label, list(panel.rows or every_row), list(panel.metrics), True))
            case Bars():
                found.append((panel.label, list(panel.rows or every_row), [panel.metric], False))
            case Profile():
                found.append((panel.label, list(panel.rows or every_row), [], False))
            case ByDepth():
                rows = [row for depths in panel.series.values() for row in depths.values()]
                found.append((panel.label, rows, [panel.metric], best))
    return found


@pytest.mark.parametrize("name", ENTRIES)
def test_claims_panels_and_printed_numbers_name_rows_that_there_are(name):
    entry = ENTRIES[name]
    assert entry.question.endswith("?") and entry.source and entry.labels
    assert not set(entry.published) & set(entry.labels)
    for what, rows, _, _ in names_of(entry):
        assert set(rows) <= set(entry.labels), f"{name}, {what}: {sorted(set(rows) - set(entry.labels))}"
    if entry.reported:
        first = entry.metrics[0]
        shares = is_share(first)  # printed in percent
        assert all(0 < number.mean < 100 for number in entry.reported.values()) or not shares
        assert isinstance(entry, Measurement) or shares, first


@pytest.mark.parametrize("name", TRAINED)
def test_claims_and_panels_name_metrics_that_a_training_step_gives(name):
    study = TRAINED[name]
    runs = {label: recorded(STEPS[step(trial)]) for label, trial in study.trials.items()}
    for what, rows, metrics, at_every_epoch in names_of(study):
        for row in rows:
            every_epoch, last, _ = runs[row]
            there = every_epoch if at_every_epoch else every_epoch | last
            missing = {metric.replace("_accuracy", "_error") for metric in metrics} - there
            assert not missing, f"{name}, {what}, {row}: no {missing}, only {sorted(there)}"
    probed = [panel for panel in study.panels if isinstance(panel, Distribution | Images)]
    probed += [stated.claim for stated in study.claims if isinstance(stated.claim, LessVariance)]
    for user in probed:
        array, ndim = (user.images, 3) if isinstance(user, Images) else (user.probe, 1)
        assert all(len(arrays[array]) == ndim for _, _, arrays in runs.values()), f"{name}, {user}"
    assert not any(isinstance(panel, Lines) for panel in study.panels)


@pytest.mark.parametrize("name", ["tanhexp.fig_1_functions", "tanhexp.fig_2_derivatives"])
def test_the_quick_measurements_give_what_their_columns_and_panels_name(name):
    entry = MEASURED[name]
    for label, row in entry.rows.items():
        arrays = row()
        assert set(entry.metrics) <= set(arrays), label
        for panel in entry.panels:
            assert arrays[panel.x].shape == arrays[panel.y].shape == (401,)
            assert np.isfinite(arrays[panel.y]).all()


@pytest.mark.parametrize(
    "name", ["tanhexp.fig_3_output_landscape", "tanhexp.table_3_computation_time", "elu.table_speed_elu_relu"]
)
def test_timings_and_landscapes_give_what_their_columns_claims_and_panels_name(name, monkeypatch):
    """Without the time that timing takes: every call once, or for the network that takes minutes not at all."""

    def once(functions, *, repeats, **_):
        for function in functions.values():
            function()
        return {label: np.ones(repeats) for label in functions}

    caches = (tanhexp_measured.scalar_seconds, tanhexp_measured.compiled_seconds, elu_measured._step_seconds)
    monkeypatch.setattr(tanhexp_measured, "seconds_per_call", once)
    monkeypatch.setattr(elu_measured, "seconds_per_call", once)
    monkeypatch.setattr(elu_measured, "_train_step", lambda trial, batch_size: dict)
    for cached in caches:
        cached.cache_clear()
    try:
        entry = MEASURED[name]
        for label, row in entry.rows.items():
            arrays = row()
            needed = {*entry.metrics, *(stated.claim.metric for stated in entry.claims)}
            assert needed <= set(arrays) and all(len(arrays[metric]) > 1 for metric in needed), label
            assert all(arrays[panel.images].ndim == 3 for panel in entry.panels if isinstance(panel, Images))
    finally:
        for cached in caches:
            cached.cache_clear()


def runs_in_common(*names: str) -> int:
    own = [{trial_id(trial) for trial in TRAINED[name].trials.values()} for name in names]
    return len(set.intersection(*own))


@pytest.mark.parametrize(
    "names, count",
    [
        (["resnet_elu.table_1_depth_cifar10", "resnet_elu.fig_5_learning_behavior", "resnet_elu.fig_6_test_error"], 10),
        (["resnet_elu.table_1_depth_cifar10", "resnet_elu.fig_4_elu_after_addition"], 10),
        (["resnet_elu.table_1_depth_cifar10", "resnet_elu.table_2_comparison"], 2),
        (["resnet_elu.fig_7_cifar100", "resnet_elu.table_2_comparison"], 2),
        (["resnet_elu.section_3_2_blocks", "resnet_elu.fig_4_elu_after_addition"], 6),
        (["elu.fig_4_cifar100_activations", "elu.fig_5_batch_norm"], 4),
        (["tanhexp.fig_5_mnist_learning_speed", "tanhexp.fig_7_mnist_depth"], 4),
        (["tanhexp.fig_5_mnist_learning_speed", "tanhexp.fig_8_gaussian_dropout"], 4),
        (["tanhexp.fig_9_alpha_dropout", "tanhexp.fig_10_representations"], 4),
        (["proportional.table_1_plain_cifar100", "proportional.ensemble_leaky_relu"], 2),
        (["proportional.table_1_plain_cifar100", "proportional.fig_2_all_linear"], 2),
        (["proportional.table_2_preact_cifar100", "proportional.section_3_preactivation_block"], 2),
    ],
)
def test_rows_that_several_figures_share_are_one_run(names, count):
    assert runs_in_common(*names) == count


def test_no_study_has_a_row_twice_and_a_third_of_all_rows_are_shared():
    assert all(len(set(map(trial_id, study.trials.values()))) == len(study.trials) for study in TRAINED.values())
    rows = sum(len(study.trials) for study in TRAINED.values())
    final = {trial_id(trial) for study in TRAINED.values() for trial in study.trials.values()}
    assert (rows, len(final)) == (323, 252)


def few_images(name: str, count: int = 256) -> datasets.Dataset:
    """Noise in the shape of a dataset: 256 images to train on and 100 to test."""
    rng = np.random.default_rng(0)
    facts = datasets.DATASETS[name]
    arrays = {
        f"{part}_{kind}": values
        for part, size in (("train", count), ("test", 100))
        for kind, values in (
            ("images", rng.integers(0, 256, (size, *facts.shape), dtype=np.uint8)),
            ("labels", rng.integers(0, facts.num_classes, size, dtype=np.int32)),
        )
    }
    return datasets.Dataset(name=name, label="noise", num_classes=facts.num_classes, digest="", **arrays)


@pytest.mark.parametrize(
    "function, row, data",
    [
        (proportional.fig_2_all_linear, "2-1 Proportional Module, 38", None),
        (elu.fig_2_median_activation, "ELU", "digits"),
        (resnet_elu.table_1_depth_cifar10, "ResNet with ELU, 20", None),
        (tanhexp.fig_10_representations, "TanhExp", None),
    ],
)
def test_a_row_of_each_file_trains_and_is_reported(function, row, data, tmp_path, monkeypatch):
    """One epoch with as few layers as the network allows."""
    load = datasets.load
    monkeypatch.setattr(datasets, "load", lambda name, *at: load(name, *at) if name == data else few_images(name))
    study = adapt(function(), epochs=1, runs=1, data=data)
    trial = study.trials[row]
    shallow = replace(trial, model=shallowest(trial.model, batch_of(trial, 1).images.shape))
    study = replace(study, trials=dict(study.trials) | {row: shallow})
    results = runner.run(study, name="study", workdir=tmp_path, only=[row])
    ((run,),) = [runs for runs in results.values() if runs]
    assert run.status == "done"
    assert all(np.isfinite(run.last(metric)) for metric in study.metrics), run.history
    assert row in tables.table(study, results, "text")
    for panel in study.panels:
        figures.render(figures.draw(replace(study, panels=(panel,)), results), "svg")
