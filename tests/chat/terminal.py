"""A real terminal for a command: a pseudo-terminal that is typed into and read from."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from select import select


class Typed:
    """`purekv chat ARGUMENTS` in a terminal of its own, so that Ctrl-C is a signal that the terminal sends."""

    def __init__(self, *arguments: str | Path, home: Path, code: str = "", stdout: Path | None = None) -> None:
        self._master, slave = pty.openpty()
        self.shown = ""

        def control() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # pytest itself may run in the background
            os.setsid()
            os.close(os.open(os.ttyname(2), os.O_RDWR))  # the first terminal that is opened becomes its own

        run = ["-c", code] if code else ["-m", "purekv_cli"]
        out = stdout.open("wb") if stdout else None
        state = {"XDG_STATE_HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        self._process = subprocess.Popen(
            [sys.executable, *run, "chat", *map(str, arguments)],
            stdin=slave,
            stdout=out or slave,
            stderr=slave,
            preexec_fn=control,
            env={**os.environ, **state, "OMP_NUM_THREADS": "1", "TERM": "xterm", "NO_COLOR": "1"},
        )
        os.close(slave)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, text: str, within: float = 90) -> str:
        """What is shown up to and with `text`, from where the last call ended."""
        end = time.monotonic() + within
        while text not in self.shown:
            left = max(0, end - time.monotonic())
            if not select([self._master], [], [], left)[0] or not self._read():
                raise AssertionError(f"no {text!r} in {self.shown!r}")
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def ended(self) -> tuple[int, str]:
        """(exit code, what was still shown)."""
        code = self._process.wait(timeout=60)
        while select([self._master], [], [], 0)[0] and self._read():
            pass
        os.close(self._master)
        return code, self.shown

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            data = b""
        text = re.sub(r"\x1b\[\??[0-9;]*[A-Za-z]", "", data.decode("utf-8", "replace"))
        self.shown += text.replace("\r", "")
        return bool(data)
