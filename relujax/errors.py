"""The one error that a user can cause: a value, the rule it breaks and the nearest valid choice, in one line."""

import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from numbers import Integral


class InputError(ValueError):
    """Bad input, refused at the border; the command line prints it without a traceback and exits with 2."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """The refusal of an unknown `name`: the nearest match first, then every valid choice."""
    valid = sorted(valid)
    by_lower = {choice.lower(): choice for choice in reversed(valid)}
    begun = sorted((choice for choice in by_lower if choice.startswith(name.lower())), key=len)
    nearest = [by_lower[choice] for choice in begun or difflib.get_close_matches(name.lower(), by_lower, 1, 0.4)]
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return InputError(f"unknown {kind} {name!r}: {hint}valid: {', '.join(valid)}")


def one_line(error: BaseException) -> str:
    """What an error says, in one line of 200 characters at most."""
    return " ".join(str(error).split())[:200]


def check_choice(kind: str, name: str, valid: Iterable[str]) -> None:
    """Refuses a `name` that is none of the valid ones."""
    if name not in (valid := tuple(valid)):
        raise unknown(kind, name, valid)


def check_count(name: str, value: object) -> None:
    """Refuses a `value` that is no whole number from 1 on."""
    if not isinstance(value, Integral):
        raise InputError(f"{name} must be a whole number; got {value!r}")
    if value < 1:
        raise InputError(f"{name} must be at least 1; got {value}")


def need(*modules: str, extra: str) -> None:
    """Refuses, with the command that installs them, where a module of an optional part of relujax is missing."""
    for module in modules:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:  # not even the package that it is in
            found = None
        if found is None:
            raise InputError(f"this needs {module}, which is not installed: pip install 'relujax[{extra}]'")
