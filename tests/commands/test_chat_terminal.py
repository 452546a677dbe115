"""`purekv chat` in a real terminal: the prompt, its history, and Ctrl-C at every stage."""

from pathlib import Path

import pytest

from purekv_cli.demo import sample_clip
from tests.chat.terminal import Typed
from tests.clips import Recipe, make

# Runs the real command; the first time an answer is at the stage, it stays there until Ctrl-C comes.
HELD = """
import sys, time
from purekv_cli.chat import state
from purekv_cli.app import main
from purekv_cli.runtime.events import Progress, Text

take, held = state.take_turn, []

def slow(session, question, generation, tell, stopped, **more):
    def told(event):
        tell(event)
        if not held and isinstance(event, Text if "STAGE" == "answer" else Progress):
            held.append(event)
            print("REACHED", file=sys.stderr, flush=True)
            while not stopped():
                time.sleep(0.01)
    return take(session, question, generation, told, stopped, **more)

state.take_turn = slow
main()
"""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make(tmp_path, Recipe(ticks=tuple(range(8)))).path


def test_questions_are_typed_edited_and_remembered(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    sample_clip(clip)
    chat = Typed(clip, "-m", "demo", "--device", "cpu", home=tmp_path)
    assert "/help lists the commands" in chat.until("\n> ")
    chat.type("which numbxer can be seen?" + "\x1b[D" * 15 + "\x7f\n")  # a letter too many is taken out again
    assert chat.until("\n> ").splitlines()[-2] == "11"
    chat.type("/nothing\n")
    assert "no command named '/nothing'" in chat.until("\n> ")
    chat.type("\x04")
    assert chat.ended()[0] == 0
    assert (tmp_path / "purekv" / "chat_history").read_text().splitlines() == ["which number can be seen?", "/nothing"]
    again = Typed(clip, "-m", "demo", "--device", "cpu", home=tmp_path)
    again.until("\n> ")
    again.type("\x1b[A\x1b[A\n")
    assert again.until("\n> ").splitlines()[-2] == "11"
    again.type("half a line\x03")
    code, shown = again.ended()
    assert code == 0
    assert "Traceback" not in shown
    assert "interrupted" not in shown


@pytest.mark.parametrize("stage", ["prefill", "answer"])
def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(stage: str, clip: Path, bundle: Path, tmp_path: Path) -> None:
    tiny = (clip, "-m", bundle, "--dtype", "float32", "--device", "cpu", "--max-tokens", "5")
    chat = Typed(*tiny, home=tmp_path, code=HELD.replace("STAGE", stage))
    chat.until("\n> ")
    chat.type("what?\n")
    chat.until("REACHED")
    chat.type("\x03")
    told = chat.until("\n> ")
    assert ("the question is forgotten" if stage == "prefill" else "the chat goes on after what was said") in told
    chat.type("why?\n")
    chat.until("\n> ")
    chat.type(f"/save {tmp_path}/chat.md\n")
    chat.until("written: ")
    chat.type("/quit\n")
    assert chat.ended()[0] == 0
    text = (tmp_path / "chat.md").read_text()
    assert "**why?**" in text
    assert ("*(interrupted)*" in text) == ("**what?**" in text) == (stage == "answer")


def test_a_second_ctrl_c_leaves(clip: Path, bundle: Path, tmp_path: Path) -> None:
    deaf = HELD.replace("STAGE", "answer").replace("not stopped()", "True")
    chat = Typed(clip, "-m", bundle, "--device", "cpu", home=tmp_path, code=deaf)
    chat.until("\n> ")
    chat.type("what?\n")
    chat.until("REACHED")
    chat.type("\x03")
    chat.until("^C")
    chat.type("\x03")
    code, shown = chat.ended()
    assert code == 130
    assert "Traceback" not in shown
    assert (tmp_path / "purekv" / "chat_history").read_text() == "what?\n"


def test_answers_may_go_to_a_file_while_a_person_types(clip: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.txt"
    chat = Typed(clip, "-m", bundle, "--device", "cpu", "--max-tokens", "3", home=tmp_path, stdout=out)
    chat.until("\n> ")
    chat.type("what?\n")
    chat.until("\n> ")
    chat.type("\x04")
    assert chat.ended()[0] == 0
    assert len(out.read_text().splitlines()) == 1
    assert ">" not in out.read_text()
