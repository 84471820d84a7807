"""Writes the tables of README.md and results/README.md anew from the records: python tests/renew_readme.py"""

from pathlib import Path

from experiments.__main__ import STUDIES
from relujax.results import overview, rehearsals_table, results_table

ROOT = Path(__file__).parents[1]


def tables() -> dict[Path, dict[str, str]]:
    """File → the name of a marker in it → what stands there."""
    studies = {name: study() for name, study in STUDIES.items()}
    return {
        ROOT / "README.md": {
            "results": overview(ROOT, "results", studies),
            "rehearsals": overview(ROOT, "results/rehearsals", studies),
        },
        ROOT / "results" / "README.md": {
            "results": results_table(ROOT / "results", studies),
            "rehearsals": rehearsals_table(ROOT / "results" / "rehearsals", studies),
        },
    }


def between(text: str, marker: str) -> str:
    """What stands between <!-- marker --> and <!-- /marker -->."""
    return text.partition(f"<!-- {marker} -->\n")[2].partition(f"<!-- /{marker} -->")[0]


if __name__ == "__main__":
    for path, parts in tables().items():
        text = path.read_text()
        for marker, table in parts.items():
            text = text.replace(f"<!-- {marker} -->\n{between(text, marker)}", f"<!-- {marker} -->\n{table}")
        path.write_text(text)
