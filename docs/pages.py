"""Pages generated from the code: the papers with their studies and deviations, the datasets, the API's modules."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import experiments
import relujax
from experiments.__main__ import STUDIES
from relujax import download
from relujax.facts import DATASETS, Facts
from relujax.report import deviations_in
from relujax.study import Study

ROOT = Path(__file__).parents[1]
PAPERS = {
    "proportional": "Proportional module",
    "elu": "ELU",
    "resnet_elu": "ResNet with ELU",
    "tanhexp": "TanhExp",
}
OWN = {"search": "Beyond the papers"}


def pages() -> dict[str, str]:
    """Name → Markdown of every generated page."""
    modules = [name for name in module_names(relujax) if not name.endswith("__main__")]
    return {"papers": papers(), "data": data(), "api": api(modules), **{name: _module(name) for name in modules}}


def module_names(package: ModuleType) -> list[str]:
    """Names of all modules below a package, in alphabetical order."""
    return sorted(
        found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".") if not found.ispkg
    )


# The papers.


def papers() -> str:
    """Every paper with its studies, then every deviation in one table."""
    parts = [
        "# Papers and deviations",
        "Five papers in four files, and one of our own; the two on the proportional module share most of their tables. "
        "`python -m experiments show NAME` prints the rows, settings and claims of a study.",
    ]
    for file, title in {**PAPERS, **OWN}.items():
        module = importlib.import_module(f"experiments.{file}")
        head = (module.__doc__ or "").split("\n\n")
        parts += [f"## {title}", *[_text(part) for part in head if not part.startswith(("    ", "Deviation:"))]]
        rows = [(f"`{name}`", _text(study.source), _text(study.question)) for name, study in _entries(file)]
        parts.append(_table(("name", "where", "question"), rows))
    parts += [
        "## Every deviation",
        "Where a paper is silent, ambiguous or was not followed, the code says so in a line that begins with "
        "`Deviation:`. These are all such lines, collected from the docstrings.",
        _table(("paper", "deviation", "stands in"), deviations()),
    ]
    return "\n\n".join(parts) + "\n"


def deviations() -> list[tuple[str, str, str]]:
    """(papers, deviation, the names whose docstrings state it) of every `Deviation:` paragraph."""
    places: dict[str, list[str]] = {}
    for name, docstring in docstrings():
        for text in deviations_in(docstring):
            places.setdefault(text, []).append(name)
    users = _papers_of_modules()
    rows = []
    for text, names in places.items():
        concerned = dict.fromkeys(title for name in names for title in _papers_of(name, users))
        if len(concerned) == len(PAPERS):
            concerned = {"all": None}
        # The paper says which file; a study is known by its own name.
        short = ", ".join(f"`{name.partition('.')[2].partition('.')[2] or name}`" for name in names)
        rows.append((", ".join(concerned), _text(text), short))
    order = [*PAPERS.values(), "all"]
    return sorted(rows, key=lambda row: (row[0] == "all", "," in row[0], order.index(row[0].split(", ")[0])))


def docstrings() -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of every module, class and function of relujax and the experiments."""
    for module in [*module_names(experiments), *module_names(relujax)]:
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())  # pyright: ignore
        yield module, ast.get_docstring(tree) or ""
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield f"{module}.{node.name}", ast.get_docstring(node) or ""


def _papers_of(name: str, users: dict[str, set[str]]) -> list[str]:
    """Titles of the papers that a module, class or function belongs to; all of them for what every study uses."""
    files = [file for file in PAPERS if name.split(".")[1].removesuffix("_measured") == file and name.startswith("exp")]
    if name.startswith("relujax.models."):
        files = [file for file in PAPERS if file in users.get(".".join(name.split(".")[:3]), ())]
    return [PAPERS[file] for file in files or PAPERS]


def _papers_of_modules() -> dict[str, set[str]]:
    """Module of a network → the files whose studies train it."""
    users: dict[str, set[str]] = {}
    for file in PAPERS:
        for _, study in _entries(file):
            for trial in study.trials.values() if isinstance(study, Study) else ():
                users.setdefault(type(trial.model).__module__, set()).add(file)
    # Measured without training.
    users["relujax.models.landscape"] = {"tanhexp"}
    return users


def _entries(file: str) -> list:
    return [(name, function()) for name, function in STUDIES.items() if name.startswith(f"{file}.")]


# Datasets.


def data() -> str:
    """Where every dataset comes from, its size, licence, and how its bytes are recognised."""
    parts = [
        "# Datasets",
        "`python -m experiments data NAME` fetches the original files, prepares and verifies them; no TensorFlow is "
        "needed. Images become one array of bytes per split, in an order made of their content, so that every source "
        "of the same images gives the same runs. What is not the real data (`cifar10 (recompressed)`) is good for "
        "rehearsals only and is called so in every report.",
        _table(
            ("name", "images", "pixels, classes", "to download", "licence", "from"),
            [
                (
                    f"`{name}`",
                    f"{facts.train:,} + {facts.test:,}",
                    f"{'×'.join(map(str, facts.shape))}, {facts.num_classes}",
                    _size(facts),
                    facts.licence,
                    f"[{facts.page.split('/')[2].removeprefix('www.')}]({facts.page})",
                )
                for name, facts in DATASETS.items()
            ],
        ),
        "## How they are recognised",
        "By the SHA-256 of every file that is downloaded, as registered in TensorFlow Datasets:",
        _table(
            ("name", "file", "bytes", "SHA-256"),
            [
                (f"`{name}`", f"[{source.filename}]({source.url})", f"{source.size:,}", f"`{source.sha256}`")
                for name in download.NAMES
                for source in download.sources(name)
            ],
        ),
        "Then by the arrays; the version is that of TensorFlow Datasets' builder:",
    ]
    rows = []
    for name, facts in DATASETS.items():
        known = [f"SHA-256 `{digest}`: {label}" for digest, label in facts.labels.items()]
        if facts.published:
            mean, std = _numbers(facts.published.mean), _numbers(facts.published.std)
            known.append(
                f"mean {mean} and std {std} of the training pixels where white is {facts.published.white:g} "
                f"({_text(facts.published.source)}); as many images of every class"
            )
        if facts.large:
            known.append("number and classes of the images; other numbers are named in every report")
        rows.append((f"`{name}`", facts.version, "; ".join(known)))
    parts.append(_table(("name", "version", "the arrays"), rows))
    by_hand = [f"`{name}`: {facts.by_hand}." for name, facts in DATASETS.items() if facts.by_hand]
    return "\n\n".join([*parts, *by_hand]) + "\n"


def _size(facts: Facts) -> str:
    if not facts.megabytes:
        return "–"
    return f"{facts.megabytes} MB" if facts.megabytes < 1000 else f"{facts.megabytes / 1000:,.0f} GB"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


# The API.


def api(modules: list[str]) -> str:
    """The public names with their first line, then a page per module."""
    rows = []
    for name in relujax.__all__:
        home = f"relujax.{relujax._HOME[name]}"
        public = getattr(relujax, name)
        first = (inspect.getdoc(public) or "").split("\n")[0] if callable(public) else "Every nonlinearity by name."
        rows.append((f"[`relujax.{name}`](#{home}.{name})" if callable(public) else f"`relujax.{name}`", _text(first)))
    models = [name for name in modules if name.startswith("relujax.models.")]
    others = [name for name in modules if name not in models]
    return "\n\n".join(
        [
            "# API",
            "What `import relujax` gives; names are loaded when they are first used. The rest is a module away.",
            _table(("name", "what it is"), rows),
            _toctree("Networks", models),
            _toctree("Everything else", others),
        ]
    )


def _module(name: str) -> str:
    return f"# `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"


def _toctree(caption: str, names: list[str]) -> str:
    listed = "\n".join(f"{name.removeprefix('relujax.')} <{name}>" for name in names)
    return f"## {caption}\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"


# Markdown.


def _text(text: str) -> str:
    """A docstring's words on one line of a table or paragraph."""
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _table(header: tuple[str, ...], rows: list) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]])
