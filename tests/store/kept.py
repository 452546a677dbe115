"""What the tests of this folder put away: sessions of a tiny model, and their snapshots."""

from collections.abc import Iterator
from pathlib import Path

import torch

from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Observe
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer, Event
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session
from purekv_cli.runtime.snapshot import Snapshot
from purekv_cli.store.file import Kept, read, tensors_of, write
from purekv_cli.store.header import read_header
from purekv_cli.store.key import Key
from tests.runtime.adapter import TinyAdapter

FEW = Generation(max_tokens=5)
KEY = Key("0123", "abcd", {"made": 0.0, "path": "/videos/clip.mp4"})


def engine(adapter: TinyAdapter, policy: str = "purekv", observe: Observe = "template", budget: str = "0.5") -> Engine:
    return Engine(adapter, MethodConfig(policy=policy, budget=Budget.parse(budget), observe=observe))


def last(events: Iterator[Event]) -> Answer:
    *_, answer = events
    assert isinstance(answer, Answer)
    return answer


def snapshot(session: Session) -> Snapshot:
    taken = Snapshot.of(session)
    assert taken is not None
    return taken


def through_a_file(taken: Snapshot, path: Path, strip: tuple[tuple[str, bytes], ...] = ()) -> Kept:
    """Written and read again."""
    kept = Kept(taken, "read 1.0 of 2.0 s", strip)
    write(path, KEY, kept, tensors_of(kept))
    return read(path, read_header(path))


def never() -> Inputs:
    raise AssertionError("the clip was watched again")


def all_equal(one: Snapshot, other: Snapshot) -> bool:
    tensors = [[*(t for layer in each.layers for t in layer), each.ids, each.positions] for each in (one, other)]
    return all(torch.equal(a.cpu().double(), b.cpu().double()) for a, b in zip(*tensors, strict=True))
