"""The architecture as a test: imports point one way, and importing relujax touches nothing."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "relujax"

# Each file may import only files that stand before it.
DATA = "errors activations facts own data pictures datasets from_tfds download"
NETWORKS = "initializers placement gates dropout convolution layers models interop"
TRAINING = "recipe sharding preemption hosts probes statistics timing trial train records bucket checkpoint environment"
SEEN = "figures tables results report show catalog obtain cli"
STUDIES = "claims study measure progress live profile loop estimate runner launch"
ORDER = f"{DATA} {NETWORKS} {TRAINING} {STUDIES} {SEEN}".split()


def test_imports_point_one_way():
    for path in PACKAGE.rglob("*.py"):
        if path.name == "__init__.py":
            continue
        own = "models" if path.parent.name == "models" else path.stem
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("relujax"):
                names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                for name in names:
                    assert ORDER.index(name) < ORDER.index(own), f"{path.name} imports {name}"


def test_the_report_cannot_train_and_the_training_knows_no_study():
    def imported(name):
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())
        modules = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        return {n for node in modules for n in (*node.module.split("."), *(alias.name for alias in node.names))}

    assert not imported("report") & {"train", "runner", "checkpoint", "sharding"}
    assert not imported("train") & {"study", "runner", "records", "report"}
    assert not imported("layers") & {"recipe", "train", "data"}


def test_importing_starts_no_device_and_changes_no_setting(tmp_path):
    code = """
import signal, logging, jax
before = dict(jax.config.values), signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers)
import relujax
relujax.run, relujax.fit, relujax.ACTIVATIONS
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert before == (dict(jax.config.values), signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers))
import sys
assert not {"tensorflow", "matplotlib", "scipy.stats", "sklearn", "tensorflow_datasets", "orbax"} & set(sys.modules)
"""
    environment = {"HOME": str(tmp_path / "none"), "PATH": "", "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
