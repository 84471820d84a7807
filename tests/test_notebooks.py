"""A cell that trains, in a real kernel: one bar, and what is interrupted can be run again. By make test-notebooks."""

import queue

import pytest

pytestmark = pytest.mark.faults

CELL = """
import relujax
from experiments import elu

study = relujax.adapt(elu.fig_2_median_activation(), data="digits", epochs=EPOCHS, runs=1)
results = relujax.run(study, workdir=WORKDIR, only=["ELU"])
len(results["ELU"][0].history)
"""


def run_cell(client, code, *, interrupt=None):
    """The messages that a cell sends; `interrupt` is called at the first update of its bar."""
    asked = client.execute(code)
    messages = []
    while True:
        try:
            message = client.get_iopub_msg(timeout=300)
        except queue.Empty:
            pytest.fail("the kernel says nothing any more")
        if message["parent_header"].get("msg_id") != asked:
            continue
        messages.append(message)
        if message["msg_type"] == "update_display_data" and interrupt:
            interrupt()
            interrupt = None
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return messages


def test_an_interrupted_cell_leaves_a_kernel_in_which_it_goes_on(tmp_path):
    manager_of = pytest.importorskip("jupyter_client").manager
    manager, client = manager_of.start_new_kernel(cwd=str(tmp_path))
    try:
        assert not any(m["msg_type"] == "error" for m in run_cell(client, f"WORKDIR, EPOCHS = {str(tmp_path)!r}, 2000"))
        first = run_cell(client, CELL, interrupt=manager.interrupt_kernel)
        (error,) = [message["content"] for message in first if message["msg_type"] == "error"]
        assert error["ename"] == "Preempted"
        shown = [message for message in first if message["msg_type"] in ("display_data", "update_display_data")]
        assert len({message["content"]["transient"]["display_id"] for message in shown}) == 1  # one bar, updated
        (metrics,) = tmp_path.glob("runs/*/seed_0/metrics.jsonl")
        before = metrics.read_text()
        assert 0 < len(before.splitlines()) < 2000
        again = run_cell(client, CELL, interrupt=manager.interrupt_kernel)
        assert any(message["msg_type"] == "error" for message in again)
        assert metrics.read_text().startswith(before) and metrics.read_text() != before
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
