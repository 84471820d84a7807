"""What is declared is what is imported, and what is built installs and works where nothing else is."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import relujax
from relujax import errors
from relujax.errors import InputError, need

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = PROJECT["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]

MISSING = "this needs {module}, which is not installed: pip install 'relujax[{extra}]'"

# Imports a network from the core alone and computes with it.
FIRST_STEPS = """
import jax, jax.numpy as jnp
import relujax
from relujax.models.preact_resnet import PreActResNet
model = PreActResNet(8, num_classes=10, activation=relujax.get_activation("tanhexp"))
images = jnp.ones((2, 8, 8, 3))
variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
logits = jax.jit(lambda variables: model.apply(variables, images, train=False))(variables)
assert logits.shape == (2, 10) and bool(jnp.isfinite(logits).all())
relujax.run, relujax.fit, relujax.Study, relujax.ratio(model, (1, 8, 8, 3))
from experiments import elu
elu.fig_2_median_activation()
"""


def names(requirements) -> set[str]:
    """Normalised names of distributions, without those of relujax itself."""
    found = (re.match(r"[\w.-]+", line) for line in requirements if not line.startswith(("#", "relujax[")))
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def test_requirements_are_the_core_with_data_and_report():
    listed = (ROOT / "requirements.txt").read_text().splitlines()
    assert sorted(line for line in listed if line and not line.startswith("#")) == sorted(
        [*CORE, *EXTRAS["data"], *EXTRAS["report"]]
    )


def imports(path: Path) -> list[tuple[str, bool]]:
    """(top-level module, whether it is imported with the file) of each import that is not for type checkers."""
    tree = ast.parse(path.read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    ignored = {inner for node in guarded for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], node in tree.body) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(((node.module or "").partition(".")[0], node in tree.body))
    return found


def test_what_is_imported_is_declared_and_with_the_file_only_the_core():
    distributions = importlib.metadata.packages_distributions()
    anywhere = names([*CORE, *(line for lines in EXTRAS.values() for line in lines)])
    for path in [*(ROOT / "relujax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        for module, with_the_file in imports(path):
            # IPython draws the progress bar where it is what runs us.
            if module in sys.stdlib_module_names or module in ("relujax", "experiments", "IPython"):
                continue
            declared = names(distributions.get(module, [module]))
            assert declared & (names(CORE) if with_the_file else anywhere), f"{path.name} imports {module}"


def test_a_missing_extra_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "jinja2" else object())
    need("matplotlib", extra="report")
    with pytest.raises(InputError) as raised:
        need("matplotlib", "jinja2", extra="report")
    assert str(raised.value) == MISSING.format(module="jinja2", extra="report")


def test_every_extra_that_a_message_names_is_there():
    for path in (ROOT / "relujax").rglob("*.py"):
        for extra in re.findall(r"extra=\"(\w+)\"|relujax\[(\w+)\]", path.read_text()):
            assert set(extra) - {""} <= EXTRAS.keys(), path


WITHOUT_EXTRAS = """
import sys
from experiments.__main__ import STUDIES, main
try:
    relujax.run(relujax.adapt(elu.fig_2_median_activation(), data="digits"), workdir="workdir")
except relujax.InputError as error:
    print(error)
sys.exit(main(STUDIES, ["run", "elu.fig_2_median_activation", "--data", "digits"]))
"""

BLOCKED = """
import importlib.machinery, sys
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {modules} else super().find_spec(name, path, target)
sys.meta_path = [finder for finder in sys.meta_path if finder is not importlib.machinery.PathFinder] + [Finder]
"""


def modules_of_extras() -> set[str]:
    """What only an extra brings: modules of its distributions that the core does not need as well."""
    extra = names(line for lines in EXTRAS.values() for line in lines) - names(CORE)
    distributions = importlib.metadata.packages_distributions()
    return {module for module, theirs in distributions.items() if names(theirs) and names(theirs) <= extra}


def test_the_core_is_enough_for_networks_and_says_what_studies_need(tmp_path):
    optional = modules_of_extras()
    assert {"matplotlib", "jinja2", "sklearn", "PIL", "tensorflow_datasets"} <= optional
    code = BLOCKED.format(modules=sorted(optional)) + FIRST_STEPS + WITHOUT_EXTRAS
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = [
        MISSING.format(module=module, extra=extra) for module, extra in (("matplotlib", "report"), ("sklearn", "data"))
    ]
    assert (done.returncode, done.stderr) == (2, f"error: {said[0]}\n"), done.stderr
    assert done.stdout == f"{said[1]}\n"
    assert not list(tmp_path.iterdir())


def test_version_is_the_same_everywhere():
    assert f"\nversion: {relujax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(relujax.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_citation_has_the_five_papers():
    text = (ROOT / "CITATION.cff").read_text()
    titles = re.findall(r"^    title: \"?(.+?)\"?$", text, re.M)
    assert len(titles) == 5
    for paper in ("1511.07289", "1604.04112", "2003.09855", "1709.06247"):
        assert f"https://arxiv.org/abs/{paper}" in text


@pytest.mark.slow
def test_the_wheel_of_the_sdist_works_in_an_empty_environment(tmp_path):
    """Built as a publisher would: first the sdist, and from it the wheel. Needs a package index."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = [path for folder in ("relujax", "experiments") for path in (ROOT / folder).rglob("*.*")]
    assert {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"} <= packed
    assert "relujax/py.typed" in packed
    assert all(name.startswith(("relujax/", "experiments/", "relujax-")) for name in packed)
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "tests/test_zoo.py", "docs/conf.py"} <= shipped
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    subprocess.run([python, "-c", FIRST_STEPS], check=True, cwd=tmp_path)
    listed = subprocess.run([python, "-m", "experiments", "list"], cwd=tmp_path, capture_output=True, text=True)
    assert listed.returncode == 0 and "elu.fig_2_median_activation" in listed.stdout
