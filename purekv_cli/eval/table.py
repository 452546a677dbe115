"""Graded answers as a table: one row a policy, budget and moment of pruning, with what it kept in bytes.

python -m purekv_cli.eval.table results.jsonl more.jsonl     # one table a suite, of all files together
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
_HEAD = "| policy | budget | question at pruning | KV kept, bytes | right | mean of types | narration | of dense |"


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a share; (0, 1) when nothing was asked."""
    if not asked:
        return 0.0, 1.0
    share, weight = right / asked, z * z / asked
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / asked + weight / (4 * asked)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_of_types(rows: Iterable[Row]) -> float:
    """Mean over question types of the share that was right."""
    by_type: dict[str, list[bool]] = {}
    for row in rows:
        by_type.setdefault(row["type"], []).append(row["right"])
    return sum(sum(right) / len(right) for right in by_type.values()) / len(by_type)


def markdown(rows: Sequence[Row]) -> str:
    """The table; `of dense` compares the share of right answers with dense on the same questions."""
    arms: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        arms.setdefault((row["policy"], row["budget"], row["when"]), []).append(row)
    dense = sum(row["right"] for row in rows if row["policy"] == "dense")
    lines = [_HEAD, "|---|---|---|---|---|---|---|---|"]
    for (policy, budget, when), asked in arms.items():
        right = sum(row["right"] for row in asked)
        low, high = wilson(right, len(asked))
        bytes_kept = sum(row["kv_bytes_kept"] for row in asked) / sum(row["kv_bytes_full"] for row in asked)
        told = [row["right"] for row in asked if row["type"] == "narration"]
        lines.append(
            f"| {policy} | {budget} | {'all the same' if policy == 'dense' else when} | {bytes_kept:.1%} "
            f"| {right / len(asked):.1%} ({low:.1%} to {high:.1%}, n {len(asked)}) | {mean_of_types(asked):.1%} "
            f"| {f'{sum(told) / len(told):.1%} (n {len(told)})' if told else 'not asked'} "
            f"| {f'{right / dense:.3f}' if dense else 'none right'} |"
        )
    return "\n".join(lines)


def by_suite(rows: Sequence[Row]) -> str:
    """A titled table for every suite."""
    parts = []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        of_suite = [row for row in rows if row["suite"] == suite]
        parts.append(f"{suite}: {len({row['video'] for row in of_suite})} clips\n\n{markdown(of_suite)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(by_suite([json.loads(line) for name in sys.argv[1:] for line in Path(name).read_text("utf-8").splitlines()]))
