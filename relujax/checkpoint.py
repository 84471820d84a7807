"""The only file that knows Orbax: a run's train state on disk, by epoch."""

from pathlib import Path
from typing import Any


class Checkpoints:
    """The checkpoints of one run: RUN/checkpoints/<epoch>/; the two newest are kept."""

    def __init__(self, directory: Path):
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True, create=True)
        self._manager = ocp.CheckpointManager((directory / "checkpoints").absolute(), options=options)

    @staticmethod
    def newest(directory: Path) -> int:
        """The epoch of the newest complete checkpoint; 0 before the first."""
        import orbax.checkpoint as ocp

        folder = directory / "checkpoints"
        return max(ocp.utils.checkpoint_steps(folder.absolute()), default=0) if folder.exists() else 0

    def save(self, epoch: int, state: Any) -> None:
        """Begins to write the state after `epoch`; returns before it is on disk."""
        import orbax.checkpoint as ocp

        self._manager.save(epoch, args=ocp.args.StandardSave(state))

    def restore(self, epoch: int, like: Any) -> Any:
        """The state after `epoch`, with the structure, shapes and types of `like`."""
        import orbax.checkpoint as ocp

        return self._manager.restore(epoch, args=ocp.args.StandardRestore(like))

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
