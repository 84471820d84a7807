"""Records of finished studies, small enough to commit, and the tables that a README shows of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relujax import records
from relujax.claims import Results, Verdict, variance_over_epochs
from relujax.errors import InputError
from relujax.probes import MedianActivation
from relujax.study import Entry, Study, rehearsal_reasons
from relujax.tables import NOTHING, escape_markdown, judgements, table_cells
from relujax.trial import RunResult, Trial, describe, trial_id

SHOWN = 4  # rows of a study in the overview
OF_A_RUN = {"seed", "status", "epochs", "curves", "environment"}  # what a record has of each


def overview(root: Path, folder: str, studies: Mapping[str, Entry]) -> str:
    """The records in a folder of `root` as a Markdown table of a line each: our numbers, the paper's, verdict, cost.

    Of a study with many rows the first are shown. A rehearsal says why it is one instead of a verdict.
    """
    lines = ["| study | ours | the paper's | n | verdict | device, hours |", "|" + " --- |" * 6]
    for path, found, runs in _recorded(root / folder):
        header, *rows = found["table"]
        rows = [dict(zip(header, row)) for row in rows]
        metric = header[1]  # or, where no run of any row was finished, what follows the metrics
        known = [row for row in rows if metric not in ("n", "paper") and row[metric] != NOTHING]
        ours = "; ".join(f"{row['']} {row[metric]}" for row in known[:SHOWN]) + ("; …" if len(known) > SHOWN else "")
        printed = [
            f"{row['']} {row['paper']}" for row in known[:SHOWN] if row.get("paper", "").lstrip("-")[:1].isdigit()
        ]
        counts = dict.fromkeys(row["n"] for row in known)
        devices = dict.fromkeys(run["environment"]["device"] for run in runs if run["environment"])
        device, hours = ", ".join(devices) or NOTHING, _hours(runs)
        cells = [
            f"[{escape_markdown(found['source'])}]({path.relative_to(root)})" + _if_outdated(found, studies),
            escape_markdown(f"{metric}: {ours}") if known else "none: no run ended but those that diverged",
            escape_markdown("; ".join(printed)) or NOTHING,
            ", ".join(counts) or str(sum(run["status"] != "unfinished" for run in runs)),
            _verdict(found),
            f"{device}, {hours:.1f}" if hours >= 0.05 else device,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _verdict(found: Mapping[str, Any]) -> str:
    """ "2 of 3 claims reproduced, 1 not run", or why it is a rehearsal and how often it went as claimed."""
    claims = [claim for claim in found["claims"] if claim["verdict"] != Verdict.NOT_RUN.value]
    if found["rehearsal"]:
        seen = sum(claim["as_claimed"] is True for claim in claims)
        return f"rehearsal ({escape_markdown('; '.join(found['rehearsal']))}): {seen} of {len(claims)} as claimed"
    if not claims:
        return "no claim"
    reproduced, not_run = sum(claim["verdict"] == "reproduced" for claim in claims), len(found["claims"]) - len(claims)
    return f"{reproduced} of {len(claims)} claims reproduced" + (f", {not_run} not run" if not_run else "")


def results_table(directory: Path, studies: Mapping[str, Entry]) -> str:
    """The records of real runs in `directory` as a Markdown table: what was claimed, what came out, how sure."""
    lines = ["| study | claim | verdict | p | runs | hours | figure |", "|" + " --- |" * 7]
    for path, found, runs in _recorded(directory):
        for position, claim in enumerate(found["claims"]):
            p_value = NOTHING if claim["p"] is None else f"{claim['p']:.2g}"
            cells = ["", escape_markdown(claim["words"]), claim["verdict"], p_value, "", "", ""]
            if position == 0:
                picture = path.with_suffix(".png")
                cells[0] = escape_markdown(found["source"]) + _if_outdated(found, studies)
                cells[4:] = [str(len(runs)), f"{_hours(runs):.1f}", f"[figure]({picture.name})"]
                cells[6] = cells[6] if picture.exists() else NOTHING
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def rehearsals_table(directory: Path, studies: Mapping[str, Entry]) -> str:
    """The records of shortened runs and stand-in data in `directory`: what was seen, and why it is no verdict."""
    lines = ["| study | why a rehearsal | seen |", "|" + " --- |" * 3]
    for _, found, _ in _recorded(directory):
        seen = [claim["finding"] for claim in found["claims"] if claim["verdict"] != Verdict.NOT_RUN.value]
        for position, finding in enumerate(seen):
            first = [
                escape_markdown(found["source"]) + _if_outdated(found, studies),
                escape_markdown("; ".join(found["rehearsal"])),
            ]
            lines.append("| " + " | ".join([*(first if position == 0 else ["", ""]), escape_markdown(finding)]) + " |")
    return "\n".join(lines) + "\n"


def take_over(study: Study, directory: Path, workdir: Path) -> int:
    """Gives `workdir` the runs of the study that have ended in the records of a directory; how many.

    Where a run was begun in the workdir it stays as it is. Left out are rows with probes that look at single units, of
    which a record does not hold what they saw, and runs of which it does not say when they were measured. What starts
    from such a run needs its checkpoint, and is refused.
    """
    if not directory.is_dir():
        raise InputError(f"--records must be a folder of records, such as results; {directory} is none")
    whole = [trial for trial in study.trials.values() if all(isinstance(own, MedianActivation) for own in trial.probes)]
    trials = {trial_id(trial): trial for trial in whole}
    taken = 0
    for path, found, _ in _recorded(directory):
        for row in found["rows"].values():
            trial = trials.get(row.get("trial_id"))
            taken += 0 if trial is None else sum(_taken(run, trial, path.name, workdir) for run in row["runs"])
    return taken


def _taken(run: Mapping[str, Any], trial: Trial, source: str, workdir: Path) -> bool:
    """Whether a run of a record could be written as a run directory."""
    directory, history = records.run_directory(workdir, trial, run["seed"]), _history(run, trial)
    if run["status"] == "unfinished" or directory.exists() or history is None:
        return False
    with records.locked([directory]):
        records.open_run(directory, trial)
        for epoch in history:
            records.append_epoch(directory, epoch, {})
        ended = {name: run[name] for name in ("status", "diverged_at_step", "environment") if name in run}
        records.write_json(directory / "result.json", ended | {"from_record": source})
    return True


def _history(run: Mapping[str, Any], trial: Trial) -> list[dict[str, float]] | None:
    """The epochs of a recorded run: each has a value of every curve, but for tests that come once, at the end."""
    history: list[dict[str, float]] = [{"epoch": epoch + 1} for epoch in range(run["epochs"])]
    for name, curve in run["curves"].items():
        once = trial.data.validation > 0 and run["status"] == "done" and name.startswith("test_") and len(curve) == 1
        if len(curve) != len(history) and not once:
            return None
        for epoch, value in zip(history[-1:] if once else history, curve):
            epoch[name] = value
    return history


def _recorded(directory: Path) -> Iterator[tuple[Path, Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
    """Path, content and runs of every record; other JSON files are passed over."""
    for path in sorted(directory.glob("*.json")):
        found = records.read_json(path)
        if isinstance(found, dict) and "study" in found:
            try:
                runs = [run for row in found["rows"].values() for run in row["runs"]]
                whole = all(run.keys() >= OF_A_RUN and isinstance(run["curves"], dict) for run in runs)
            except (AttributeError, KeyError, TypeError):
                whole = False
            if not whole:
                raise InputError(f"{path} is no whole record of a study; remove it, or name another folder")
            yield path, found, runs


def _hours(runs: Sequence[Mapping[str, Any]]) -> float:
    """What the rows' own runs took; phases before the last, and what came before an interruption, left out."""
    return sum(sum(run["curves"].get("seconds", ())) for run in runs) / 3600


def _if_outdated(found: Mapping[str, Any], studies: Mapping[str, Entry]) -> str:
    """Says of a record whether it was made by another version of its study."""
    study = studies.get(found["study"])
    if study is None:
        return " (a study that is gone)"
    if found["rehearsal"] or not isinstance(study, Study):
        return ""
    now = {label: trial_id(trial) for label, trial in study.trials.items()}
    then = {label: row.get("trial_id") for label, row in found["rows"].items()}
    return "" if now == then else " (another version of the study)"


def record(study: Entry, name: str, results: Results) -> dict[str, Any]:
    """A study's runs as JSON data small enough to commit: settings, curves, verdicts and circumstances."""
    header, rows = table_cells(study, results)
    return {
        "study": name,
        "source": study.source,
        "question": study.question,
        "rehearsal": list(rehearsal_reasons(study, results)),
        "table": [header, *rows],
        "claims": [
            {
                "words": each.stated.words,
                "verdict": each.verdict.value,
                "finding": each.finding,
                "as_claimed": each.as_claimed,
                "p": each.p_value,
            }
            for each in judgements(study, results)
        ],
        "rows": {
            label: {**_identity(study, label), "runs": [_run_record(run) for run in results.get(label, ())]}
            for label in study.labels
        },
    }


def _identity(study: Entry, label: str) -> dict[str, Any]:
    """What a row's runs are runs of; a measured row has no trial."""
    if not isinstance(study, Study):
        return {}
    return {"trial_id": trial_id(study.trials[label]), "trial": describe(study.trials[label])}


def _run_record(run: RunResult) -> dict[str, Any]:
    names = dict.fromkeys(name for epoch in run.history for name in epoch if name not in ("epoch", "step"))
    curves = {name: [_short(value) for value in run.curve(name) if not np.isnan(value)] for name in names}
    quartiles = {
        f"{probe}, variance over epochs of its {of}": [
            _short(value) for value in np.percentile(variance_over_epochs(run, probe, of), (0, 25, 50, 75, 100))
        ]
        for probe, values in run.unit_values.items()
        if values.ndim == 2 and len(values) > 1  # one value per unit and epoch; not images, not a measured curve
        for of in ("value", "change")
    }
    return {
        "seed": run.seed,
        "status": run.status,
        **({"diverged_at_step": run.diverged_at_step} if run.diverged_at_step is not None else {}),
        "epochs": len(run.history),
        "curves": curves,
        **({"quartiles_over_units": quartiles} if quartiles else {}),
        "environment": dict(run.environment),
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")
