"""`purekv chat` in a real terminal: the prompt, its history, and Ctrl-C at every stage."""

from pathlib import Path

import pytest

from tests.chat.terminal import Typed
from tests.clips import Recipe, make

# Runs the real command. The first turn stays in prefill and the second in its answer until Ctrl-C comes; a later one
# stays in its answer whatever comes.
HELD = """
import sys, time
from purekv_cli.chat import state
from purekv_cli.app import main
from purekv_cli.runtime.events import Progress, Text

take, turns = state.take_turn, []

def slow(session, question, generation, tell, stopped, **more):
    turns.append(question)
    reached = []
    def told(event):
        tell(event)
        if not reached and isinstance(event, Progress if len(turns) == 1 else Text):
            reached.append(event)
            print("REACHED", file=sys.stderr, flush=True)
            while not stopped():
                time.sleep(0.01)
            print("NOTED", file=sys.stderr, flush=True)
            while len(turns) > 2:
                time.sleep(0.01)
    return take(session, question, generation, told, stopped, **more)

state.take_turn = slow
main()
"""
PROMPT = "\n> "


@pytest.fixture
def tiny(tmp_path: Path, bundle: Path) -> tuple[str | Path, ...]:
    clip = make(tmp_path, Recipe(ticks=tuple(range(8)))).path
    return clip, "-m", bundle, "--dtype", "float32", "--device", "cpu", "--max-tokens", "5"


def test_questions_are_typed_edited_and_remembered(tiny: tuple[str | Path, ...], tmp_path: Path) -> None:
    history = tmp_path / "purekv" / "chat_history"
    history.parent.mkdir()
    history.write_text("which numxber?\n")
    chat = Typed(*tiny, home=tmp_path)
    assert "/help lists the commands" in chat.until(PROMPT)
    chat.type("\x1b[A" + "\x1b[D" * 4 + "\x7f\n")  # the last line again, without a letter that was too many
    chat.until(PROMPT)
    chat.type("/nothing\n")
    assert "no command named '/nothing'" in chat.until(PROMPT)
    chat.type(f"/save {tmp_path}/chat.md\n")
    chat.until("written: ")
    chat.until(PROMPT)
    chat.type("half a line\x03")
    code, shown = chat.ended()
    assert code == 0
    assert "Traceback" not in shown
    assert "interrupted" not in shown
    assert "**which number?**" in (tmp_path / "chat.md").read_text()
    assert history.read_text().splitlines()[:3] == ["which numxber?", "which number?", "/nothing"]


def test_ctrl_c_stops_an_answer_and_a_second_one_leaves(tiny: tuple[str | Path, ...], tmp_path: Path) -> None:
    chat = Typed(*tiny, home=tmp_path, code=HELD)
    for question, told in (("what?", "the question is forgotten"), ("where?", "goes on after what was said")):
        chat.until(PROMPT)
        chat.type(f"{question}\n")
        chat.until("REACHED")
        chat.type("\x03")
        chat.until(told)
    chat.type(f"/save {tmp_path}/chat.md\n")
    chat.until("written: ")
    text = (tmp_path / "chat.md").read_text()
    assert "what?" not in text
    assert text.count("**where?**") == text.count("*(interrupted)*") == 1
    chat.type("why?\n")
    chat.until("REACHED")
    chat.type("\x03")
    chat.until("NOTED")
    chat.type("\x03")
    code, shown = chat.ended()
    assert code == 130
    assert "Traceback" not in shown
    assert (tmp_path / "purekv" / "chat_history").read_text().splitlines()[-1] == "why?"


def test_answers_may_go_to_a_file_while_a_person_types(tiny: tuple[str | Path, ...], tmp_path: Path) -> None:
    out = tmp_path / "answers.txt"
    chat = Typed(*tiny, home=tmp_path, stdout=out)
    chat.until(PROMPT)
    chat.type("what?\n")
    chat.until(PROMPT)
    chat.type("\x04")
    assert chat.ended()[0] == 0
    assert len(out.read_text().splitlines()) == 1
    assert ">" not in out.read_text()
