"""A worker's process: `python -m purekv_cli.batch.worker FD`, started by local.py, spoken to through that descriptor.

It is deaf to Ctrl-C, which is the driver's to handle, and ends by itself as soon as the driver is gone, however that
went: the other end of the connection closes with the driver's process.
"""

import os
import signal
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from purekv_cli.batch.loop import Broken, Loop
from purekv_cli.batch.messages import FATAL, Done, Ready, Refused
from purekv_cli.errors import PureKVError


def serve(channel: "Connection[Any, Any]") -> None:
    """Build the answerer that the first message describes, then answer the jobs that follow."""
    spec = channel.recv()
    orders: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_listen, args=(channel, orders), daemon=True).start()
    try:
        loop, facts = loaded(spec)
    except Exception as error:
        channel.send(refusal(error))
        return
    channel.send(Ready(facts, os.getpid()))
    while True:
        jobs, ahead = orders.get()
        for reply in loop.run(jobs, ahead):
            channel.send(reply)
        channel.send(Done())


def loaded(spec: Any) -> tuple[Loop, str]:
    """The loop around the answerer of the spec, and its facts."""
    answerer = spec.build()
    return Loop(answerer, spec), answerer.facts


def refusal(error: Exception) -> Refused:
    """An error in loading, as the driver will show it."""
    if isinstance(error, PureKVError):
        return Refused(error.exit_code, str(error), error.hint)
    return Refused(FATAL, f"{type(error).__name__}: {error}", "The model could not be loaded by a worker.")


def _listen(channel: "Connection[Any, Any]", orders: "SimpleQueue[Any]") -> None:
    try:
        while True:
            orders.put(channel.recv())
    except (EOFError, OSError):
        os._exit(1)  # the driver is gone, and with it whoever would hear of this


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        serve(Connection(int(sys.argv[1])))
    except Broken:
        code = 1
    except (BrokenPipeError, ConnectionResetError):
        code = 1
    else:
        code = 0
    os._exit(code)  # threads that still decode for nobody are not waited for
