"""What --tensorboard writes, read back as TensorBoard reads it: named by row and seed, every epoch once."""

import re
import struct
from pathlib import Path

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments import elu
from relujax import runner
from relujax.study import adapt


def events(path: Path) -> list[Event]:
    """The events of a file of TFRecords: length, its checksum, data, its checksum."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_curves_are_named_by_row_and_seed_and_hold_every_epoch_once(tmp_path):
    study = adapt(elu.fig_2_median_activation(), data="digits", epochs=2, runs=2)
    results = runner.run(study, name="fig", workdir=tmp_path, only=("ELU",), tensorboard=True)["ELU"]
    boards = sorted((tmp_path / "tensorboard").glob("*/*"))
    assert all(re.fullmatch(r"ELU MLP-[0-9a-f]{12}", board.parent.name) for board in boards)
    assert [board.name for board in boards] == ["seed_0", "seed_1"]
    for board, result in zip(boards, results):
        (file,) = board.iterdir()
        curves: dict[str, list[tuple[int, float]]] = {}
        for event in events(file):
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
        assert set(curves) == {name for epoch in result.history for name in epoch} - {"epoch", "step", "seconds"}
        for name, points in curves.items():
            recorded = [(epoch["epoch"], np.float32(epoch[name])) for epoch in result.history if name in epoch]
            assert points == recorded
        (begin,) = [event for event in events(file) if event.session_log.status == SessionLog.START]
        assert begin.step == 1  # TensorBoard hides what earlier files of this run have from here on
