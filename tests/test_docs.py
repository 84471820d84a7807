"""What the documentation shows is run, and what it says of the code is read off the code.

Python blocks of a page run in order in one namespace, in an empty directory. A block whose first comment is a path of
the package, e.g. `# relujax/activations.py`, is run as the end of that file, or as a new file. A text block right after
a Python block is what that block prints. `<!-- not run: reason -->` before a block says why it is not run here.
"""

import contextlib
import importlib
import io
import itertools
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import relujax
from experiments.__main__ import STUDIES
from relujax import activations
from relujax.catalog import studies_of
from relujax.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# "```python" at the start of a line; what is before it may say why it is not run.
FENCE = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.M | re.S)


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("gallery")


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("pages")


@pytest.fixture
def restored(monkeypatch):
    """Takes back what the page about extending adds to modules; compiles fast, for little is computed here."""
    monkeypatch.setattr(activations, "ACTIVATIONS", dict(activations.ACTIVATIONS))
    jax.config.update("jax_disable_most_optimizations", True)
    yield monkeypatch
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_runs(page, tmp_path, restored):
    restored.chdir(tmp_path)
    namespace = reader_s_own() if page.name == "README.md" else {}
    printed = ""
    for block in FENCE.finditer(page.read_text()):
        code, line = block["code"], page.read_text()[: block.start("code")].count("\n")
        match block["kind"]:
            case "python" if not block["reason"]:
                if "ToNNX" in code:  # run by test_nnx.py, and compared with Linen there
                    continue
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    run_block("\n" * line + code, page, namespace, restored)
                printed = output.getvalue()
                continue
            case "text" if printed:
                assert printed == code, f"{page.name}, line {line}"
            case "sh" if page.name == "extending.md":
                for command in code.splitlines():
                    assert command_line(command) == 0, command
        printed = ""


def reader_s_own() -> dict:
    """What the README takes for granted: a reader's imports and data."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
    return {"jax": jax, "jnp": jnp, "nn": nn, "optax": optax, "images": images, "labels": jnp.arange(4)}


def run_block(code: str, page: Path, namespace: dict, monkeypatch) -> None:
    if path := re.match(r"\s*# ((?:relujax|experiments)/[\w/]+)\.py\n", code):
        name = path[1].replace("/", ".")
        if not (ROOT / f"{path[1]}.py").exists():
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        file = vars(importlib.import_module(name))
        namespace = dict(file)
        exec(compile(code, page, "exec"), namespace)
        for added in namespace.keys() - file.keys():
            monkeypatch.setitem(file, added, namespace[added])
    else:
        exec(compile(code, page, "exec"), namespace)


def command_line(command: str) -> int:
    """The exit status of a line that begins with `python -m experiments`."""
    start = "python -m experiments "
    assert command.startswith(start)
    files = dict.fromkeys(sys.modules[study.__module__] for study in STUDIES.values())
    return main(studies_of(*files), shlex.split(command.removeprefix(start)))


def test_a_block_that_is_not_run_says_why():
    (block,) = FENCE.finditer("<!-- not run: needs a GPU -->\n```python\nraise\n```\n")
    assert block["reason"] == "needs a GPU"
    for page in PAGES:
        kinds = [block["kind"] for block in FENCE.finditer(page.read_text())]
        assert page.read_text().count("```python") == kinds.count("python"), page


def edges(nodes) -> list[tuple[str, str]]:
    def name(node):
        return node.name or (node.label if node.kind == "sum" else node.kind)

    return sorted((name(before), name(node)) for node in nodes for before in node.inputs)


def drawn(gallery, title, position):
    figure = gallery.FIGURES[title][position]
    module, inputs = gallery.blocks_of(figure.network, figure.images)[figure.block]
    return gallery.graph_of(module, inputs)


def chain(*names):
    return list(itertools.pairwise(names))


def test_the_gallery_draws_the_building_block_of_the_paper(gallery):
    """He et al. 2015, Fig. 2 left."""
    main_path = chain("input", "conv1", "bn1", "act1", "conv2", "bn2", "+", "act2", "output")
    assert edges(drawn(gallery, "ResNet", 0)) == sorted([*main_path, ("input", "+")])
    assert [node.kind for node in drawn(gallery, "ResNet", 1) if node.name == "act1"] == ["off"]


def test_the_gallery_draws_merge_and_run(gallery):
    """DFN-MR, eq. 3: a′ = act(m + F_a(a)), b′ = act(m + F_b(b)), m = (a + b) / 2."""
    expected = [("input", "+"), ("input", "+"), ("+", "÷2"), ("÷2", "+"), ("÷2", "+")]
    for line in ("a", "b"):
        inside = [f"branch_{line}/{layer}" for layer in ("conv1", "bn1", "act1", "conv2", "bn2")]
        expected += chain("input", *inside, "+", f"act_{line}", "output")
    assert edges(drawn(gallery, "DFNMR", 0)) == sorted(expected)


def test_the_gallery_draws_the_gate_of_squeeze_and_excitation(gallery):
    graph = edges(drawn(gallery, "SENet", 0))
    assert {("act2", "×"), ("activation", "×"), ("×", "+"), ("input", "+"), ("+", "act3")} <= set(graph)


def test_the_gallery_shows_every_module_of_every_network(gallery, pages):
    shown = {
        type(module)
        for figure, *_ in gallery.FIGURES.values()
        for module, _ in gallery.blocks_of(figure.network, figure.images).values()
    }
    there = {
        value
        for name in pages.module_names(relujax)
        if name.startswith("relujax.models.")
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == name
    }
    assert shown == there


def test_boxes_of_the_gallery_do_not_overlap_and_figures_are_the_same_each_time(gallery):
    assert gallery.svg(drawn(gallery, "SENet", -1), "") == gallery.svg(drawn(gallery, "SENet", -1), "")
    for title in ("DFNMR", "SENet", "ShuffleNetV2"):
        picture = gallery.svg(drawn(gallery, title, -1), title)
        boxes = [tuple(map(float, at)) for at in re.findall(r'<rect class="\w+" x="([\d.-]+)" y="([\d.-]+)"', picture)]
        for i, (x, y) in enumerate(boxes):
            assert all(abs(x - u) >= gallery.WIDTH or abs(y - v) >= gallery.HEIGHT for u, v in boxes[:i])


def test_every_deviation_stands_in_the_table(pages):
    lines = [
        (path, line)
        for folder in ("relujax", "experiments")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in re.findall(r"^\s*#?\s*Deviation: (.*)$", path.read_text(), re.M)
    ]
    assert len(lines) > 100
    begun = Counter(pages._text(line) for _, line in lines)
    table = [deviation for _, deviation, _ in pages.deviations()]
    for path, line in lines:
        assert any(deviation.startswith(pages._text(line)) for deviation in table), f"{path}: {line}"
    assert len(table) >= len(begun)
    papers = {paper for papers, _, _ in pages.deviations() for paper in papers.split(", ")}
    assert papers == {*pages.PAPERS.values(), "all"}


def test_the_page_of_datasets_names_each_with_licence_size_and_digest(pages):
    page = pages.data()
    for name, facts in relujax.facts.DATASETS.items():
        assert f"`{name}`" in page and facts.licence in page and facts.page in page
        assert all(digest in page for digest in facts.labels)
    assert "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd" in page  # cifar-10-binary.tar.gz


def test_every_module_has_a_page(pages):
    written = pages.pages()
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / "relujax").rglob("*.py")}
    assert {name for name in files if not name.endswith("__init__")} <= written.keys()
    listed = re.findall(r"<(relujax\.[\w.]+)>", written["api"])
    assert sorted(listed) == sorted(name for name in written if name.startswith("relujax."))
