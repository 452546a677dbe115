"""Shell completion, asked as the shells' scripts ask: through environment variables."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from purekv_cli.app import app, main
from purekv_cli.commands import completion
from purekv_cli.demo.clips import SUITES
from purekv_cli.method.policies import POLICIES
from purekv_cli.models.registry import ALIASES
from purekv_cli.presets import shipped
from tests.test_app import HEAVY

Bash = Callable[..., list[str]]
VERBS = typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]


def taking(flag: str) -> list[str]:
    """The verbs that have a flag."""
    return [verb for verb, command in VERBS if any(flag in parameter.opts for parameter in command.params)]


def asked(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[int, str]:
    with monkeypatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main([])
    out, err = capfd.readouterr()
    assert err == ""
    return int(ended.value.code or 0), out


@pytest.fixture
def bash(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bash:
    """What is offered where the cursor stands behind the last word."""

    def offered(*words: str) -> list[str]:
        code, out = asked(
            capfd,
            monkeypatch,
            COMP_WORDS=" ".join(["purekv", *words]),
            COMP_CWORD=str(len(words)),
            _PUREKV_COMPLETE="complete_bash",
        )
        assert code == 0
        return out.split()

    return offered


def test_verbs_and_flags(bash: Bash) -> None:
    assert bash("expl") == ["explain"]
    assert bash("ask", "clip.mp4", "--max-f") == ["--max-frames"]
    assert bash("ask", "clip.mp4", "--observe", "t") == ["template"]


@pytest.mark.parametrize("verb", taking("--policy"))
def test_policies_are_offered_by_every_verb_that_takes_them(bash: Bash, verb: str) -> None:
    assert bash(verb, "x", "--policy", "stream") == ["streaming-llm"]


@pytest.mark.parametrize("verb", taking("--model"))
def test_models_are_offered_by_every_verb_that_takes_them(bash: Bash, verb: str) -> None:
    assert bash(verb, "x", "-m", "d") == ["demo"]
    assert bash(verb, "x", "--model", "7b") == ["7b"]


def test_what_is_offered_is_what_there_is(bash: Bash) -> None:
    assert set(bash("ask", "x", "--policy", "")) == set(POLICIES)
    assert set(bash("ask", "x", "--preset", "")) == {*shipped(), "default"}
    assert set(bash("ask", "x", "-m", "")) >= {"auto", "demo", *ALIASES}
    assert set(bash("eval", "clipworld", "--suite", "")) == set(SUITES)


def test_models_of_the_cache_are_offered(bash: Bash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, architecture in (("Qwen/Mine", "Qwen2_5_VLForConditionalGeneration"), ("Qwen/Deaf", "LlamaForCausalLM")):
        home = tmp_path / f"models--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("c0ffee")
        (home / "snapshots" / "c0ffee").mkdir(parents=True)
        (home / "snapshots" / "c0ffee" / "config.json").write_text(f'{{"architectures": ["{architecture}"]}}')
        (home / "snapshots" / "c0ffee" / "model.safetensors").write_bytes(b"")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert bash("ask", "x", "-m", "Q") == ["Qwen/Mine"]


def test_in_a_list_the_last_name_is_completed_and_none_comes_twice(bash: Bash) -> None:
    assert bash("eval", "clipworld", "--suite", "long,outdoors-") == ["long,outdoors-short", "long,outdoors-long"]
    assert bash("bench", "--policy", "purekv,random,purekv") == [
        "purekv,random,purekv-paper",
        "purekv,random,purekv-uniform",
    ]
    assert bash("ask", "x", "--policy", "purekv,ran") == []  # ask takes one


def test_videos_and_pictures_are_offered_and_other_files_are_not(
    bash: Bash,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("cat.mp4", "cat.txt", "car.MKV", "dog.mp4", "cap.png", ".hidden.mp4"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for verb in ("ask", "explain", "probe", "bench"):
        assert bash(verb, "ca") == ["cap.png", "car.MKV", "cat.mp4"]
    assert bash("ask", "") == ["cap.png", "car.MKV", "cat.mp4", "dog.mp4"]
    assert bash("ask", f"{tmp_path}/d") == [f"{tmp_path}/dog.mp4"]


def test_where_the_shell_knows_better_nothing_is_offered(
    bash: Bash,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("clip.mp4", "two words.mp4", "colon:.mp4"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert bash("ask", "cl") == []  # into the folder, or the file?
    assert bash("ask", "clip.") == ["clip.mp4"]
    assert bash("ask", "t") == []
    assert bash("ask", "col") == []
    assert bash("ask", "no/such/") == []
    assert bash("ask", "clip.mp4", "--report", "r") == []


def test_zsh_and_fish_are_told_what_names_mean(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = {"_TYPER_COMPLETE_ARGS": "purekv ask x -m 7b"}
    _, out = asked(capfd, monkeypatch, **typed, _PUREKV_COMPLETE="complete_zsh")
    assert '"7b":"Qwen/Qwen2.5-VL-7B-Instruct"' in out
    fish = {"_PUREKV_COMPLETE": "complete_fish"}
    _, out = asked(capfd, monkeypatch, **typed, **fish, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert out == "7b\tQwen/Qwen2.5-VL-7B-Instruct\n"
    typed = {"_TYPER_COMPLETE_ARGS": "purekv ask x --report r"}
    code, _ = asked(capfd, monkeypatch, **typed, **fish, _TYPER_COMPLETE_FISH_ACTION="is-args")
    assert code == 1  # fish completes files then


def test_what_goes_wrong_is_not_said_in_the_middle_of_a_command(
    bash: Bash,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: str) -> list[completion.Offer]:
        raise OSError("no such disk")

    assert list(completion._quiet(broken)("x")) == []
    monkeypatch.setenv("HF_HUB_CACHE", "/dev/null/no")
    assert bash("ask", "x", "-m", "de") == ["demo"]


@pytest.mark.parametrize(
    "words",
    [["ask", "x", "-m", ""], ["ask", "x", "--policy", ""], ["eval", "clipworld", "--suite", ""], ["ask", "./"]],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(words: list[str]) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr))\n"
        "from purekv_cli.app import app, main\nmain([])"
    )
    environment = {**os.environ, "_PUREKV_COMPLETE": "complete_bash"}
    environment |= {"COMP_WORDS": " ".join(["purekv", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "typer" in done.stderr.split()
    assert not set(done.stderr.split()) & {*HEAVY} - {"huggingface_hub"}  # of which the name of a folder is read


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_installed_completion_is_the_shown_one(tmp_path: Path, shell: str) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    purekv = [sys.executable, "-m", "purekv_cli"]
    shown, installed = (
        subprocess.run([*purekv, flag, shell], env=environment, capture_output=True, text=True, check=True).stdout
        for flag in ("--show-completion", "--install-completion")
    )
    path = Path(installed.splitlines()[0].rpartition(" ")[2])
    assert path.is_relative_to(tmp_path)
    assert path.read_text().strip() == shown.strip()
    assert "purekv" in shown


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_itself_completes(tmp_path: Path) -> None:
    """With the script as it is shown, around a `purekv` on the path."""
    program = tmp_path / "purekv"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m purekv_cli "$@"\n')
    program.chmod(0o755)
    script = (
        "source <(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 purekv --show-completion bash)\n"
        "COMP_WORDS=(purekv ask x --preset video); COMP_CWORD=4\n"
        '_purekv_completion purekv; printf "%s\\n" "${COMPREPLY[@]}"; complete -p purekv'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["videollama2", "complete -o default -F _purekv_completion purekv"]
