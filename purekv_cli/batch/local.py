"""Workers on this machine: a process each, with a GPU or a share of the cores of its own.

A process, because a damaged file may take its decoder down, memory may run out, a call may hang: all of that costs the
worker, which is started anew, and the item in hand.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from purekv_cli.batch.job import Job
from purekv_cli.batch.loop import Spec
from purekv_cli.batch.messages import Died, Message, Refused


class LocalPool:
    """Processes of this machine. See `messages.Pool`."""

    def __init__(self, spec: Spec, environments: Sequence[Mapping[str, str]]) -> None:
        """environments: one a worker, over this process's own (which GPU, how many threads)."""
        self._spec, self._environments = spec, environments
        self.size = len(environments)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[Connection[Any, Any]] = []
        for environment in environments:
            process, channel = self._start(environment)
            self._processes.append(process)
            self._channels.append(channel)

    def submit(self, worker: int, jobs: Sequence[Job], ahead: Sequence[Job]) -> None:
        with suppress(OSError):  # it has just died, which `wait` will tell
            self._channels[worker].send((tuple(jobs), tuple(ahead)))

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        said: list[tuple[int, Message]] = []
        for channel in wait(self._channels, seconds):
            worker = self._channels.index(channel)  # type: ignore[arg-type]
            try:
                message: Message = self._channels[worker].recv()
            except (EOFError, OSError):
                message = Died(self._bury(worker))
                self._processes[worker], self._channels[worker] = self._start(self._environments[worker])
            said.append((worker, message))
            if isinstance(message, Refused):
                break
        return said

    def kill(self, worker: int) -> None:
        self._processes[worker].kill()

    def close(self) -> None:
        for process, channel in zip(self._processes, self._channels, strict=True):
            process.kill()
            channel.close()
        for process in self._processes:
            process.wait()

    def _start(self, environment: Mapping[str, str]) -> "tuple[subprocess.Popen[bytes], Connection[Any, Any]]":
        ours, theirs = Pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "purekv_cli.batch.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # ours is for answers
            start_new_session=True,  # Ctrl-C is for the driver
        )
        theirs.close()
        with suppress(OSError):
            ours.send(self._spec)
        return process, ours

    def _bury(self, worker: int) -> str:
        self._channels[worker].close()
        code = self._processes[worker].wait()
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
