"""The result as JSON, with the raw times of every run, and the facts that make it repeatable."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from purekv_cli.bench import page, table
from purekv_cli.bench.result import Result, Row, Walk
from purekv_cli.report.machine import device_name, in_words, versions
from purekv_cli.report.record import dumps

SCHEMA_VERSION = 1


def facts(device: torch.device, arguments: list[str], model: str, dtype: torch.dtype) -> dict[str, object]:
    """Device, versions, model and command line."""
    found = versions()
    python = found.pop("python")
    return {
        "command": shlex.join(["purekv", *arguments]),
        "model": model,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device_name(device),
        "versions": in_words(found),
        "python": python,
    }


def to_json(result: Result) -> str:
    """One object; times in seconds, sizes in bytes."""
    return dumps(
        {
            "schema_version": SCHEMA_VERSION,
            **result.facts,
            "limits": asdict(result.limits),
            "gate": [{**asdict(check), "covers": sorted(check.covers)} for check in result.checks],
            "green": result.green,
            "interrupted": result.interrupted,
            "rows": [_row(result, row) for row in result.rows],
            "from_file": [_walk(walk) for walk in result.walks],
        }
    )


FORMATS: dict[str, Callable[[Result], str]] = {".json": to_json, ".md": table.markdown, ".html": page.render}


def _row(result: Result, row: Row) -> dict[str, Any]:
    values: dict[str, Any] = {
        "length": row.label,
        "tokens": row.tokens,
        "row": row.arm.name,
        "kind": row.arm.kind,
        "config": asdict(row.arm.config),
        "failure": row.failure,
        "runs": [asdict(times) for times in row.runs],
        "costs": asdict(row.costs) if row.costs else None,
    }
    if row.measured and row.costs:
        values["prefill"], values["first_token"], values["token"] = map(
            asdict, (row.prefill, row.first_token, row.token)
        )
        values["speed_ups"] = _speed_ups(result, row)
    return values


def _walk(walk: Walk) -> dict[str, Any]:
    return {
        "file": walk.label,
        "tokens": walk.tokens,
        "row": walk.arm.name,
        "kind": walk.arm.kind,
        "config": asdict(walk.arm.config),
        "failure": walk.failure,
        "runs": [asdict(stages) for stages in walk.runs],
    }


def _speed_ups(result: Result, row: Row) -> dict[str, float] | None:
    """Fastest run against stock's fastest, for noise only adds; None behind a red gate or without a baseline."""
    stock = result.stock(row.label)
    if stock is None or stock.costs is None or row.costs is None or result.red(row.arm.kind):
        return None
    return {
        "prefill": stock.prefill.least / row.prefill.least,
        "first_token": stock.first_token.least / row.first_token.least,
        "token": stock.token.least / row.token.least,
        "kv_kept": row.costs.kv_kept / stock.costs.kv_kept,
        "kv_peak": row.costs.kv_peak / stock.costs.kv_kept,
    }
