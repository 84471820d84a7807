"""relujax: where should a convolutional network be nonlinear, and by which function?"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from relujax.activations import ACTIVATIONS, get_activation
    from relujax.claims import Verdict
    from relujax.data import Data
    from relujax.errors import InputError
    from relujax.layers import Activation, count_layers, count_parameters, count_sites, ratio, watch
    from relujax.recipe import Recipe
    from relujax.runner import fit, run
    from relujax.study import Measurement, Study, adapt
    from relujax.trial import RunResult, Trial

# Public names, by hand. They are imported when first used: who wants an activation need not wait for Orbax.
_HOME = {
    "ACTIVATIONS": "activations",
    "get_activation": "activations",
    "Data": "data",
    "InputError": "errors",
    "Activation": "layers",
    "count_layers": "layers",
    "count_parameters": "layers",
    "count_sites": "layers",
    "ratio": "layers",
    "watch": "layers",
    "Recipe": "recipe",
    "fit": "runner",
    "run": "runner",
    "Measurement": "study",
    "Study": "study",
    "Verdict": "claims",
    "adapt": "study",
    "RunResult": "trial",
    "Trial": "trial",
}
__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Data",
    "InputError",
    "Measurement",
    "Recipe",
    "RunResult",
    "Study",
    "Trial",
    "Verdict",
    "adapt",
    "count_layers",
    "count_parameters",
    "count_sites",
    "fit",
    "get_activation",
    "ratio",
    "run",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'relujax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"relujax.{_HOME[name]}"), name)
