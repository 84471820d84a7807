"""Sphinx: Markdown pages, and pages that are generated from the code when the documentation is built."""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # gallery and pages; relujax and experiments

import gallery  # noqa: E402
import pages  # noqa: E402

import relujax  # noqa: E402

project = "relujax"
copyright = author = "The relujax authors"
version = release = relujax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"relujax {release}"
html_static_path = ["static"]
html_css_files = ["relujax.css"]
html_show_sphinx = html_copy_source = False
myst_heading_anchors = 3
smartquotes = False  # --data-dir is no dash
maximum_signature_line_length = 88
add_module_names = False
autodoc_member_order = "bysource"


def write_pages(app) -> None:
    """Leaves a page that has not changed as it is, so that it is not built again; removes those of modules gone."""
    generated = HERE / "_generated"
    generated.mkdir(exist_ok=True)
    texts = {generated / f"{name}.md": text for name, text in {"gallery": gallery.page(), **pages.pages()}.items()}
    for path in set(generated.glob("*.md")) - texts.keys():
        path.unlink()
    for path, text in texts.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def as_restructured_text(app, what, name, obj, options, lines) -> None:
    """Docstrings are plain text with `code` and, rarely, a Markdown table; autodoc reads reStructuredText."""
    text = re.sub(r"\n(?=Deviation:)", "\n\n", "\n".join(lines))
    # Tables and indented lines stay as they are.
    text = re.sub(r"(?m)((?:^\|.*\n?)+)", lambda table: textwrap.indent(table[0], "    "), text)
    text = re.sub(r"(?m)((?:^    .*\n?)+)", r"\n::\n\n\1\n", text)
    spans = re.split(r"((?m:^    .*$)|`[^`]+`)", text)
    spans[::2] = [re.sub(r"([\\*_|`])", r"\\\1", plain) for plain in spans[::2]]
    spans[1::2] = [code if code.startswith(" ") else f"`{code}`\\ " for code in spans[1::2]]
    lines[:] = "".join(spans).split("\n")


def as_written(app, what, name, obj, options, signature, returns):
    """The signature as it stands in the source, with the names of its types; of a dataclass or module, its fields."""
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    if isinstance(node, ast.ClassDef) and dataclasses.is_dataclass(obj):
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        return f"({', '.join(ast.unparse(part) for part in fields)})", None
    if not isinstance(node, ast.FunctionDef):
        return None
    if what == "method":
        node.args.args = node.args.args[1:]
    return f"({ast.unparse(node.args)})", ast.unparse(node.returns) if node.returns else None


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("autodoc-process-signature", as_written)
