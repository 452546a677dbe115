"""What a bench was asked for, read from the command line: lengths, budgets, policies, shares. Torch is not needed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from purekv_cli.errors import UsageError
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import Propagation

T = TypeVar("T")

TEXT_BEFORE, TEXT_AFTER = 32, 64  # tokens around the video of a synthetic prompt
PROPAGATION = "4:0.2,4:0.35"
GPU_LENGTHS, CPU_LENGTHS = "8k,32k,64k,128k", "512,1k,2k"


@dataclass(frozen=True, slots=True)
class Request:
    """One bench: every length with every arm."""

    tokens: tuple[int, ...]  # wished prompt lengths; whole frames make them a little shorter or longer
    grid: tuple[int, int]  # rows and columns of video tokens in one temporal step
    budgets: tuple[Budget, ...]
    policies: tuple[str, ...]
    propagations: tuple[Propagation, ...]  # empty: off
    runs: int
    warmup: int
    max_tokens: int  # decode steps
    seed: int = 0

    def steps(self, tokens: int) -> int:
        """Temporal steps of the video whose prompt comes nearest to that many tokens."""
        area = self.grid[0] * self.grid[1]
        return max(1, round((tokens - TEXT_BEFORE - TEXT_AFTER) / area))


def read_counts(text: str) -> tuple[int, ...]:
    """ "8k,32k" -> (8192, 32768); a k is 1024."""
    return _each("length", text, _count, "Give tokens such as 512, 8k or 128k, separated by commas.")


def read_budgets(text: str) -> tuple[Budget, ...]:
    """ "0.1,0.2" -> two budgets."""
    return tuple(Budget.parse(part) for part in _parts("budget", text, "Give budgets such as 0.1,0.2."))


def read_names(text: str) -> tuple[str, ...]:
    """ "purekv,random" -> two policies; whether they exist is asked when they are made."""
    return _parts("policy", text, "`purekv policies` lists them.")


def read_propagations(text: str) -> tuple[Propagation, ...]:
    """ "4:0.2,4:0.35" -> two ways to propagate; "off" -> none."""
    parts = _parts("propagation", text, "Give LAYER:SHARE such as 4:0.2, several with commas, or off.")
    return tuple(way for way in map(Propagation.parse, parts) if way is not None)


def read_grid(text: str) -> tuple[int, int]:
    """ "17x23" -> (17, 23)."""
    match = re.fullmatch(r"\s*([1-9]\d*)\s*x\s*([1-9]\d*)\s*", text.lower())
    if not match:
        raise UsageError(f"cannot read the grid {text!r}", "Give rows and columns of video tokens, such as 17x23.")
    return int(match[1]), int(match[2])


def _count(part: str) -> int | None:
    match = re.fullmatch(r"(\d+)(k?)", part.lower())
    return int(match[1]) * (1024 if match[2] else 1) or None if match else None


def _each(kind: str, text: str, read: Callable[[str], T | None], hint: str) -> tuple[T, ...]:
    values = []
    for part in _parts(kind, text, hint):
        value = read(part)
        if value is None:
            raise UsageError(f"cannot read the {kind} {part!r}", hint)
        values.append(value)
    return tuple(values)


def _parts(kind: str, text: str, hint: str) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UsageError(f"there is no {kind} in {text!r}", hint)
    return parts
