"""The cache on disk as one run sees it: look before work begins, put away after it. Failures are told, never raised."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from purekv_cli.pipeline import Plan, shares_prefill
from purekv_cli.report.build import strip
from purekv_cli.report.units import size
from purekv_cli.runtime.snapshot import Snapshot
from purekv_cli.settings import Settings
from purekv_cli.store.content import Stamp, stamp
from purekv_cli.store.file import Kept, read, tensors_of, write
from purekv_cli.store.folder import Folder, NotKept
from purekv_cli.store.header import Damaged, ago, read_header
from purekv_cli.store.key import Key, make_key
from purekv_cli.store.probed import written
from purekv_cli.terminal import Terminal
from purekv_cli.video.frames import Frames

if TYPE_CHECKING:
    from purekv_cli.commands.model import ChosenModel
    from purekv_cli.runtime.session import Session

NOTHING_SHARED = "note: policy {} reads the question, so nothing is kept for others; --observe template shares"
_HEADERS = 2**16  # bytes, more than a header and the rounding of sizes take


@dataclass(slots=True)
class Shelf:
    """Where the prefill of one plan is kept."""

    plan: Plan
    key: Key
    folder: Folder
    limit: int  # bytes of all files
    stamp: Stamp  # of the clip before its digest was taken
    terminal: Terminal
    device: torch.device  # where what is kept will be needed
    seconds: float = 0.0  # that looking and reading took
    known: bool = False  # what a session of this plan would keep is there already

    def recall(self) -> Kept | None:
        """What an earlier run kept; None: nothing, or nothing that can be trusted."""
        began, place = time.perf_counter(), self.folder.place(self.key.name)
        if not place.exists():
            return None
        try:
            header = read_header(place)
            if header.key != self.key.name:
                raise Damaged("it holds something else")
            kept = read(place, header, self.device)
            bytes_ = place.stat().st_size
        except (Damaged, OSError, torch.OutOfMemoryError) as error:
            self.terminal.note(f"note: {place} is of no use ({error}) and is made anew", style="yellow")
            return None
        self.folder.touch(place)
        self.known, self.seconds = True, time.perf_counter() - began
        self.terminal.note(f"read from the cache: {size(bytes_)}, made {ago(header.facts['made'])}")
        if kept.damage and kept.damage != self.plan.info.damage:
            self.terminal.note(f"note: {kept.damage}", style="yellow")
        return kept

    def keep(self, session: "Session", frames: Frames) -> None:
        """Put away what the session's questions share, unless it came from here."""
        snapshot = Snapshot.of(session)
        if self.known or snapshot is None:
            return
        try:
            if stamp(self.plan.info.path) != self.stamp:
                raise NotKept(f"{self.plan.info.path.name} has changed meanwhile")
            kept = Kept(snapshot, frames.damage, tuple(strip(frames)), written(self.plan.info))
            tensors = tensors_of(kept)
            need = sum(tensor.nbytes for tensor in tensors.values()) + _HEADERS
            place = self.folder.place(self.key.name)
            self.folder.make_room(need, self.limit, place)
            write(place, self.key, kept, tensors)
            bytes_ = place.stat().st_size
        except (NotKept, OSError, SafetensorError) as error:
            self.terminal.note(f"not kept for later questions: {error}")
            return
        self.known = True
        self.terminal.note(f"kept for later questions: {size(bytes_)} (purekv cache lists it; --no-cache: never)")


def open_shelf(plan: Plan, model: "ChosenModel", settings: Settings, terminal: Terminal) -> Shelf | None:
    """Where the prefill of this plan is kept; None: nowhere, as was asked for or because nothing can be shared."""
    wanted, folder, method = settings.cache, model.source.folder, plan.method
    if wanted.cache is False or folder is None or plan.also:
        return None
    if not shares_prefill(method):
        if wanted.cache:
            terminal.note(NOTHING_SHARED.format(method.policy), style="yellow")
        return None
    try:
        before = stamp(plan.info.path)
        key = make_key(plan, model.source.name, folder, model.dtype, model.device, settings.method.kernels)
    except OSError as error:
        terminal.note(f"no cache on disk: {error}", style="yellow")
        return None
    return Shelf(plan, key, Folder.of_user(), wanted.limit, before, terminal, model.device)
