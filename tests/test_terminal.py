"""What a person sees: bars and colour only on a terminal, the answer always bare."""

import os
import pty
import re
import subprocess
import sys

import pytest

SHOW = """
from purekv_cli.runtime.events import Progress
from purekv_cli.terminal import Terminal
terminal = Terminal()
stages = terminal.stages()
for done in range(3):
    stages.update(Progress("decode", done, 2))
stages.update(Progress("load", 0, 0))
terminal.note("a note", style="yellow")
stages.clear()
terminal.write("the [bold]answer[/bold]\\n")
terminal.error("what\\nwent wrong", "what to do")
"""
COLOUR = re.compile(r"\x1b\[[\d;]*(3[1-7]|9[1-7])[;m]")


def on_a_terminal(**environment: str) -> tuple[str, str]:
    """(stdout, stderr) of SHOW with stderr on a terminal of its own."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    env |= {"TERM": "xterm-256color", **environment}
    process = subprocess.Popen([sys.executable, "-c", SHOW], stdout=subprocess.PIPE, stderr=theirs, text=True, env=env)
    os.close(theirs)
    err = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux tells that the other side is closed
            piece = b""
        if not piece:
            break
        err += piece
    os.close(ours)
    out, _ = process.communicate(timeout=30)
    return out, err.decode()


def test_a_terminal_gets_bars_and_colours_and_stdout_neither() -> None:
    out, err = on_a_terminal()
    assert out == "the [bold]answer[/bold]\n"
    assert "decode" in err
    assert "2/2" in err
    assert COLOUR.search(err)


def test_no_color_is_honoured() -> None:
    _, err = on_a_terminal(NO_COLOR="1")
    assert "decode" in err
    assert not COLOUR.search(err)


@pytest.mark.parametrize("force", [{}, {"FORCE_COLOR": "1"}])
def test_without_a_terminal_there_are_only_lines(force: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, env={**os.environ, **force}
    )
    lines = re.sub(r"\x1b\[[\d;]*m", "", done.stderr).splitlines()
    assert lines == ["a note", "purekv: what went wrong", "  what to do"]
    assert force or "\x1b" not in done.stderr
