"""Writes tests/golden/studies.json, every trial of every study as data: python tests/renew_golden.py"""

import json
import re
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "studies.json"


def every_trial() -> dict:
    """{"studies": {name: {row: trial id}}, "trials": {trial id: the trial as data, phases before it included}}."""
    from experiments.__main__ import STUDIES
    from relujax.study import Study
    from relujax.trial import describe, trial_id

    entries = {name: function() for name, function in STUDIES.items()}
    trained = {name: entry.trials for name, entry in entries.items() if isinstance(entry, Study)}
    return {
        "studies": {name: {row: trial_id(trial) for row, trial in trials.items()} for name, trials in trained.items()},
        "trials": {trial_id(trial): describe(trial) for trials in trained.values() for trial in trials.values()},
    }


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    text = json.dumps(every_trial(), indent=1, sort_keys=True)
    text = re.sub(r"\[[^][{}]+\]", lambda found: " ".join(found[0].split()), text)  # a list of numbers is one line
    GOLDEN.write_text(text + "\n")
    print(f"wrote {GOLDEN}")
