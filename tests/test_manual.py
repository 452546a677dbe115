"""The man page: it says what `--help` says, and man and groff have nothing to complain about."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from purekv_cli import errors
from purekv_cli.app import CLOSED_STDOUT, app
from purekv_cli.manual import EXIT_CODES, render, verbs
from tests.test_app import HEAVY, VERBS


def read(roff: str) -> str:
    """What stands there, without the marks of roff."""
    return re.sub(r"\\f[BIR]", "", roff).replace("\\-", "-").replace("\\&", "")


def commands(text: str) -> dict[str, str]:
    """What is said under each verb."""
    part = text.split(".SH COMMANDS\n")[1].split(".SH SHARED FLAGS")[0]
    return dict(re.findall(r"\.SS purekv (\S+)\n(.*?)(?=\.SS|\Z)", part, re.DOTALL))


def test_every_verb_is_there_with_every_flag_and_argument() -> None:
    said = commands(read(render()))
    assert set(said) >= set(VERBS)
    group = typer.main.get_command(app)
    assert list(said) == list(group.commands)  # type: ignore[attr-defined]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert re.search(rf"(?<![\w-]){parameter.opts[0]}(?![\w-])", said[name]), f"{name} {parameter.opts}"
            else:
                assert parameter.help in said[name]


def test_a_flag_of_many_verbs_is_described_once_and_one_with_words_of_its_own_where_it_is() -> None:
    text = read(render())
    assert text.count("\n--max-frames N\n") == 1
    assert "\n--max-frames N\n" in text.split(".SH SHARED FLAGS")[1]
    assert "--max-frames" in commands(text)["ask"]
    assert "\n--runs N\nTimed runs of every row. [5]\n" in commands(text)["bench"]
    assert "\n--sample uniform|fps|keyframes" in text


def test_what_is_optional_stands_in_brackets() -> None:
    synopsis = read(render()).split(".SH SYNOPSIS")[1].split(".SH")[0]
    assert "purekv explain [flags] VIDEO QUESTION\n" in synopsis
    assert "purekv presets [flags] [NAME|FILE]\n" in synopsis


def test_every_exit_code_of_an_error_is_explained() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PureKVError)]
    assert {str(kind.exit_code) for kind in kinds} | {"0", str(CLOSED_STDOUT)} == {code for code, _ in EXIT_CODES}


def test_no_line_is_taken_for_a_request_of_roff() -> None:
    known = ("TH", "SH", "SS", "TP", "PP", "br", "nh", "ad", "EX", "EE")
    for line in render().splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or line[1:].split(" ")[0] in known


def test_it_is_written_with_the_date_that_is_given(tmp_path: Path) -> None:
    page = tmp_path / "purekv.1"
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['manual', {str(page)!r}]\n"
        "runpy.run_module('purekv_cli.manual', run_name='__main__')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "86400"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert page.read_text(encoding="utf-8") == render("1970-01-02")
    assert not set(done.stdout.split()) & set(HEAVY)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            words, marks=pytest.mark.skipif(not (shutil.which(words[0]) and shutil.which("groff")), reason="no man")
        )
        for words in (["man", "--warnings", "-l"], ["groff", "-man", "-ww", "-Tutf8"])
    ],
    ids=lambda words: words[0],
)
def test_it_renders_without_a_warning(tmp_path: Path, program: list[str]) -> None:
    page = tmp_path / "purekv.1"
    page.write_text(render("2026-01-31"), encoding="utf-8")
    environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*program, str(page)], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    shown = re.sub(r"\x1b\[\d+m|.\x08", "", done.stdout)
    assert all(f"purekv {verb.name}\n" in shown for verb in verbs())


def test_make_man_builds_it() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^man: .*\n(\t.*\n)*\t.*purekv_cli\.manual build/purekv\.1$", makefile, re.MULTILINE)
