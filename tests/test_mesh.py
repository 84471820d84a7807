"""The mesh ("run", "data"): runs over devices, a batch over devices, both; the same numbers on 1, 2, 4 and 8."""

import functools
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

from relujax import loop, records, runner
from relujax.checkpoint import newest
from relujax.data import Data, Flip, PadCrop, UnitRange
from relujax.errors import InputError
from relujax.initializers import he_normal
from relujax.layers import Activation, batch_norm, conv, dense, flatten, global_average_pool
from relujax.preemption import Preempted
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.sharding import batches_of_runs, everywhere, make_mesh, mesh_shape, over_runs
from relujax.train import Split, compile_programs
from relujax.trial import Trial

ROOT = Path(__file__).parents[1]
# (runs, devices, devices per run); of the last, two runs share two devices as they do on accelerators
MESHES = {"dense": [(1, 1, 1), (1, 2, 2), (2, 8, 4)], "convolutional": [(1, 1, 1), (2, 8, 4), (2, 2, 2)]}
STAGES = [8, 4, 1, 8]  # devices that split the batch in each epoch in turn


class Net(nn.Module):
    """All that looks beyond an example or is drawn at random: BatchNorm and dropout.

    ELU, because pixels that equal their mean stand at ReLU's kink, where rounding decides about a gradient.
    """

    convolutional: bool

    @nn.compact
    def __call__(self, images, *, train):
        x = conv(images, 8, kernel_init=he_normal, name="conv1") if self.convolutional else flatten(images)
        x = Activation("elu", name="act1")(batch_norm(x, train, name="bn1"))
        x = nn.Dropout(0.3, deterministic=not train)(x)
        x = global_average_pool(x) if self.convolutional else x
        return dense(x, 10, kernel_init=he_normal, name="head")


def trial_of(kind, epochs):
    recipe = Recipe(length=Epochs(epochs), batch_size=40, optimizer=Sgd(momentum=0.9), schedule=Constant(0.01))
    data = Data(name="digits", normalize=UnitRange(), augment=(PadCrop(1), Flip()))
    return Trial(model=Net(kind == "convolutional"), data=data, recipe=recipe)


def trained(kind, runs, devices, devices_per_run):
    """Run 0 after ten steps on the mesh, and what it makes of 75 test images, which no number of devices divides."""
    trial, draw = trial_of(kind, 2), np.random.default_rng(0)
    train, test = (
        Split(draw.integers(0, 256, (count, 8, 8, 1), np.uint8), draw.integers(0, 10, count).astype(np.int32))
        for count in (205, 75)
    )
    mesh = make_mesh(runs, devices, batch_size=40, devices_per_run=devices_per_run)
    together = "mixed" if mesh.shape["run"] < runs else "auto"
    programs = compile_programs(trial, mesh, train.images.shape, together=together)
    seeds = jax.device_put(np.arange(runs, dtype=np.int32), over_runs(mesh))
    train, test = jax.device_put((train, test), everywhere(mesh))
    states = programs.init(seeds, train)
    for _ in range(2):
        states = programs.epoch(states, seeds, train, lambda steps: False)
    assert int(states.step[0]) == 10
    metrics = programs.measure(states, train, {"test": test})
    return [np.asarray(leaf[0]).tolist() for leaf in jax.tree.leaves((states, metrics))]


def moved_from_devices_to_devices(workdir):
    """A run that is preempted after each epoch and goes on with the next of STAGES; [curves, what was logged].

    The third is the curves of a run that stays on one device.
    """
    said, trial = [], trial_of("dense", len(STAGES))
    loop.compile_programs = functools.cache(loop.compile_programs)
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("relujax").addHandler(handler)
    for epoch, devices in enumerate(STAGES, 1):
        try:
            runner.fit(
                trial,
                seeds=(0,),
                workdir=workdir,
                devices=devices,
                devices_per_run=devices,
                reporter=lambda *_, **__: signal.raise_signal(signal.SIGTERM),
            )
        except Preempted:
            assert newest(records.run_directory(workdir, trial, 0)) == epoch * 35
    stayed = runner.fit(trial, seeds=(0,), workdir=workdir / "stayed", devices=1)
    return curves(runner.fit(trial, seeds=(0,), workdir=workdir)), said, curves(stayed)


def curves(runs):
    return [{k: v for k, v in epoch.items() if k != "seconds"} for run in runs for epoch in run.history]


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """What this file gives as a program of its own: JAX counts its devices once per process."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"  # half the time to compile
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(tmp_path_factory.mktemp("moved"))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MESHES)
def test_however_runs_and_batches_are_split_the_numbers_are_the_same(on_eight, kind):
    alone, *split = on_eight[kind]
    for other in split:
        for ours, theirs in zip(other, alone, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_moves_between_8_4_and_1_devices_and_says_that_it_did(on_eight):
    moved, said, stayed = on_eight["moved"]
    assert [epoch["step"] for epoch in moved] == [35, 70, 105, 140]
    for ours, theirs in zip(moved, stayed, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert len(said) == len(STAGES) - 1 and all("not bitwise" in line for line in said)
    assert "mesh.data: 8, now 4" in said[0] and "mesh.data: 1, now 8" in said[2]


@pytest.mark.parametrize(
    "runs, devices, batch_size, shape",
    [
        (1, 8, 128, (1, 8)),
        (2, 8, 128, (2, 4)),
        (3, 8, 128, (3, 2)),
        (5, 4, 128, (4, 1)),
        (5, 8, 128, (5, 1)),
        (1, 8, 100, (1, 5)),
        (1, 8, 97, (1, 1)),
    ],
)
def test_spare_devices_split_the_batch_as_far_as_it_divides(runs, devices, batch_size, shape):
    assert mesh_shape(runs, devices, batch_size) == shape


@pytest.mark.parametrize(
    "runs, machines, batch_size, shape",
    [
        (5, 8, 128, (4, 2)),
        (5, 6, 128, (3, 2)),
        (5, 16, 128, (4, 4)),
        (3, 4, 128, (2, 2)),
        (10, 8, 100, (8, 1)),
        (1, 8, 100, (1, 5)),
    ],
)
def test_every_machine_takes_part_if_any_split_of_the_batch_lets_it(runs, machines, batch_size, shape):
    assert mesh_shape(runs, machines, batch_size, least=machines) == shape


def test_on_cpu_a_batch_is_split_only_when_asked_for():
    assert make_mesh(1, 2, batch_size=64).devices.shape == (1, 1)
    assert make_mesh(1, 2, batch_size=64, devices_per_run=2).devices.shape == (1, 2)
    assert make_mesh(5, 2, batch_size=64, devices_per_run=2).devices.shape == (1, 2)


def test_five_runs_on_two_devices_leave_none_idle_until_the_last():
    assert batches_of_runs(range(5), make_mesh(5, 2)) == [(0, 1), (2, 3), (4,)]


@pytest.mark.parametrize(
    "batch_size, devices_per_run, message",
    [
        (41, 2, "a batch of 41 cannot be split over 2 devices: take --devices-per-run 1, or a batch size of 40 or 42"),
        (1, 2, "or a batch size of 2$"),
        (40, 3, "--devices-per-run must be from 1 to 2, the devices in use; got 3"),
        (40, 0, "got 0"),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused_with_the_nearest_that_can(batch_size, devices_per_run, message):
    with pytest.raises(InputError, match=message):
        make_mesh(1, 2, batch_size=batch_size, devices_per_run=devices_per_run)


def test_such_a_batch_is_refused_before_anything_is_written(tmp_path):
    trial = trial_of("dense", 1)
    with pytest.raises(InputError, match="from 1 to"):
        runner.fit(trial, seeds=(0,), workdir=tmp_path / "w", devices_per_run=3)
    assert not (tmp_path / "w").exists()


if __name__ == "__main__":
    found = {kind: [trained(kind, *mesh) for mesh in meshes] for kind, meshes in MESHES.items()}
    found["moved"] = moved_from_devices_to_devices(Path(sys.argv[1]))
    print(json.dumps(found))
