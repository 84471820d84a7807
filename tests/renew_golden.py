"""Writes tests/golden/studies.json, every study and trial as data: python tests/renew_golden.py"""

import json
import re
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "studies.json"
PAGE = ("source", "metrics", "epoch", "runs", "reported", "published")


def every_trial() -> dict:
    """{"studies": {name: {row: trial id}}, "trials": {trial id: the trial as data, phases before it included},
    "pages": {name: what the study says of its page: numbers, claims, runs}}."""
    from experiments.__main__ import STUDIES
    from relujax.study import Study
    from relujax.trial import describe, trial_id

    entries = {name: function() for name, function in STUDIES.items()}
    trained = {name: entry.trials for name, entry in entries.items() if isinstance(entry, Study)}
    return {
        "studies": {name: {row: trial_id(trial) for row, trial in trials.items()} for name, trials in trained.items()},
        "trials": {trial_id(trial): describe(trial) for trials in trained.values() for trial in trials.values()},
        "pages": {
            name: {
                **{field: describe(getattr(entry, field, None)) for field in PAGE},
                "claims": {stated.words: describe(stated.claim) for stated in entry.claims},
            }
            for name, entry in entries.items()
        },
    }


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    text = json.dumps(every_trial(), indent=1, sort_keys=True)
    text = re.sub(r"\[[^][{}]+\]", lambda found: " ".join(found[0].split()), text)  # a list of numbers is one line
    GOLDEN.write_text(text + "\n")
    print(f"wrote {GOLDEN}")
