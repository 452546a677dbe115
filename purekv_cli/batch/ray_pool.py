"""Workers of a Ray cluster: an actor each, around the same loop as the processes of one machine.

Ray starts an actor anew when its process dies; tasks are never retried by Ray, because the driver knows better what was
answered. An actor has a few jobs in hand, whose replies come as a stream, and is told which to decode meanwhile.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from purekv_cli.batch.job import Job
from purekv_cli.batch.loop import Broken, Loop, Spec
from purekv_cli.batch.messages import Died, Done, Message, Ready, Refused, Reply
from purekv_cli.batch.worker import loaded, refusal
from purekv_cli.errors import OutOfResources, UsageError

CORES = 4  # of an actor without a GPU
RESTART = 3.0  # s that Ray gets to start an actor anew before it is asked to load


class _Actor:
    """What runs in the cluster."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._loop: Loop | None = None
        self._facts = ""

    def load(self) -> Iterator[Message]:
        try:
            if self._loop is None:  # else only the connection was lost
                self._loop, self._facts = loaded(self._spec)
        except Exception as error:
            yield refusal(error)
        else:
            yield Ready(f"{self._facts}, node {os.uname().nodename}", os.getpid())

    def answer(self, jobs: Sequence[Job], ahead: Sequence[Job]) -> Iterator[Reply]:
        if self._loop is None:  # Ray started the process anew between load and this call
            os._exit(1)
        try:
            yield from self._loop.run(jobs, ahead)
        except Broken:
            os._exit(1)


class RayPool:
    """Actors of a cluster. See `messages.Pool`.

    Args:
        address: auto (the cluster this machine is part of), local (one of its own), or a cluster's address.
        workers: None: as many as there are GPUs, or cores // `cores` where there are none.
    """

    def __init__(self, spec: Spec, address: str, workers: int | None, cores: int | None) -> None:
        self._ray = ray = _connect(address)
        total = ray.cluster_resources()
        gpus = int(total.get("GPU", 0))
        self.on_gpus = gpus > 0
        each = cores or (1 if gpus else min(CORES, int(total.get("CPU", 1))))
        self.size = workers or gpus or max(1, int(total.get("CPU", 1)) // each)
        remote = ray.remote(max_restarts=-1, max_task_retries=0, num_gpus=1 if gpus else 0, num_cpus=each)(_Actor)
        self._actors = [remote.remote(spec) for _ in range(self.size)]
        self._streams: dict[Any, int] = {}  # running calls
        self._loading: set[Any] = set()  # those of them that load
        self._later: list[tuple[float, int]] = []  # when to call which actor's `load` again
        for worker in range(self.size):
            self._load(worker)

    def submit(self, worker: int, jobs: Sequence[Job], ahead: Sequence[Job]) -> None:
        call = self._actors[worker].answer.options(num_returns="streaming")
        self._streams[call.remote(tuple(jobs), tuple(ahead))] = worker

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        due = [entry for entry in self._later if entry[0] <= time.monotonic()]
        for entry in due:
            self._later.remove(entry)
            self._load(entry[1])
        if not self._streams:
            time.sleep(seconds)
            return []
        said: list[tuple[int, Message]] = []
        streams, _ = self._ray.wait(list(self._streams), num_returns=1, timeout=seconds)
        for stream in streams:
            worker = self._streams[stream]
            message = self._next(stream, worker)
            if message is not None:
                said.append((worker, message))
        return said

    def kill(self, worker: int) -> None:
        self._ray.kill(self._actors[worker], no_restart=False)

    def close(self) -> None:
        with suppress(Exception):  # the cluster may be gone
            for actor in self._actors:
                self._ray.kill(actor)
        self._ray.shutdown()

    def _load(self, worker: int) -> None:
        stream = self._actors[worker].load.options(num_returns="streaming").remote()
        self._streams[stream] = worker
        self._loading.add(stream)

    def _next(self, stream: Any, worker: int) -> Message | None:
        try:
            message: Ready | Refused | Reply = self._ray.get(next(stream))
        except StopIteration:
            del self._streams[stream]
            if stream not in self._loading:
                return Done()
            self._loading.discard(stream)
            return None
        except self._ray.exceptions.RayError as error:
            del self._streams[stream]
            self._loading.discard(stream)
            self._later.append((time.monotonic() + RESTART, worker))
            return Died(" ".join(str(error).split())[:160])
        return message


def _connect(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs the package ray", 'pip install "purekv[ray]"') from None
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise OutOfResources(
            f"there is no Ray cluster at {address!r}: {' '.join(str(error).split())[:120]}",
            "Start one with `ray start --head`, or use --ray local.",
        ) from None
    return ray
