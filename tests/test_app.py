"""The root: what starting costs, and how a run that fails ends."""

import subprocess
import sys

import pytest

from purekv_cli import __version__
from purekv_cli.app import main

HEAVY = ("torch", "transformers", "av", "numpy", "PIL", "huggingface_hub", "jinja2")
VERBS = (
    "ask", "chat", "batch", "probe", "bench", "eval", "explain", "calibrate", "demo", "models", "presets", "policies",
    "doctor",
)  # fmt: skip


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules that a run of `purekv` has loaded when it ends."""
    code = (
        "import sys\nfrom purekv_cli.app import main\n"
        f"try:\n    main({list(arguments)!r})\n"
        "except SystemExit:\n    pass\n"
        "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["presets"], ["--version"]], ids=" ".join)
def test_light_runs_load_nothing_heavy(arguments: list[str]) -> None:
    assert not imported_by(*arguments) & set(HEAVY)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(f" {verb} " in out for verb in VERBS)


def test_a_bare_call_shows_the_help_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert code == 2
    assert (out + err).count("Usage: purekv") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"purekv {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (["aks", "clip.mp4"], "aks", "ask"),
        (["ask"], "VIDEO", "ask --help"),
        (["ask", "clip.mp4"], "no question", "what happens?"),
        (["ask", "clip.mp4", "   "], "no question", "what happens?"),
        (["ask", "clip.mp4", "why?", "--bugdet", "0.2"], "--bugdet", "--budget"),
        (["ask", "clip.mp4", "why?", "--dtype", "float8"], "float8", "ask --help"),
        (["ask", "clip.mp4", "why?", "--start", "1:99"], "1:99", "1:02:03.5"),
        (["ask", "clip.mp4", "why?", "--frames", "many"], "--frames", "ask --help"),
        (["ask", "clip.mp4", "why?", "--kernels", "magic"], "magic", "ask --help"),
        (["presets", "qwen2.5-vl-7"], "qwen2.5-vl-7", "qwen2.5-vl-7b"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_is_two_lines(
    capsys: pytest.CaptureFixture[str], arguments: list[str], what: str, hint: str
) -> None:
    code, out, err = run(capsys, *arguments)
    first, second = err.splitlines()
    assert (code, out) == (2, "")
    assert first.startswith("purekv: ")
    assert what in first
    assert hint in second


def failing(error: BaseException) -> object:
    def verb(*_: object, **__: object) -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "what"),
    [
        (MemoryError(), 5, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 5, "out of memory"),
        (OSError(28, "No space left on device", "x"), 5, "disk is full"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("odd\nthing"), 1, "ValueError: odd thing"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_goes_wrong_ends_in_two_lines_and_a_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, what: str
) -> None:
    monkeypatch.setattr("purekv_cli.presets.shipped", failing(error))
    ended, _, err = run(capsys, "presets")
    assert ended == code
    assert what in err.splitlines()[0]
    assert len(err.splitlines()) == 2


def test_the_traceback_is_there_for_who_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purekv_cli.commands.answering.answer", failing(ValueError("odd")))
    _, _, err = run(capsys, "ask", "clip.mp4", "why?", "-v")
    assert "Traceback" in err


def test_a_reader_that_leaves_ends_the_run_quietly() -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"set -o pipefail; {sys.executable} -m purekv_cli presets --json | head -1; exit ${{PIPESTATUS[0]}}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 when all was written before the reader left
