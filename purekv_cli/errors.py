"""Everything that can go wrong for a user, as types: each carries the exit code and the line that says what to do.

PureKVError (1)
|-- UsageError (2)          a flag, budget, preset, policy or range that cannot be right
|-- UnreadableInput (3)     missing, empty, damaged or videoless files
|-- ModelUnavailable (4)    not found, not cached, not downloadable, of an unknown kind
|-- OutOfResources (5)      memory, device or disk
|-- InvalidAnswer (1)      not the form that was asked for, twice
|-- BatchFailures (6)       a batch that finished, but not for every file
`-- Interrupted (130)       Ctrl-C
"""

from collections.abc import Iterable
from difflib import get_close_matches


class PureKVError(Exception):
    """One line of what is wrong (`str(error)`) and one line of what to do (`hint`)."""

    exit_code = 1

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


class UsageError(PureKVError):
    exit_code = 2


class UnreadableInput(PureKVError):
    exit_code = 3


class ModelUnavailable(PureKVError):
    exit_code = 4


class OutOfResources(PureKVError):
    exit_code = 5


class InvalidAnswer(PureKVError):
    exit_code = 1


class BatchFailures(PureKVError):
    exit_code = 6


class Interrupted(PureKVError):
    exit_code = 130


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is none of `known`, with the nearest one as a suggestion."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of: {', '.join(names)}."
    return UsageError(f"there is no {kind} named {name!r}", hint)
