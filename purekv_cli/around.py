"""What stands around a question in the user's turn: subtitles before it, the form of the answer after it.

It is text: never pruned, counted in the plan. Its tokens are counted by the model's own tokenizer before any weight is
loaded, so that a budget that does not hold it is refused before any work.
"""

from dataclasses import dataclass
from pathlib import Path

from purekv_cli.models.counter import counter
from purekv_cli.settings import SubtitleSettings
from purekv_cli.video.info import VideoInfo


@dataclass(frozen=True, slots=True)
class Around:
    """Texts of one clip, and what is to be said about them."""

    before: str = ""
    after: str = ""
    tokens: int = 0  # of both
    subtitles: str | None = None  # "34 subtitles of clip.srt"; None: there are none
    note: str | None = None  # where this is less than asked for

    def question(self, question: str) -> str:
        """The whole text of the turn."""
        return "\n\n".join(part for part in (self.before, question, self.after) if part)


NOTHING = Around()


def find_text(
    info: VideoInfo,
    span: tuple[float, float],
    origin: float,
    wish: SubtitleSettings,
    form: str,
    folder: Path | None,
) -> Around:
    """Find and count what goes around the questions about a clip.

    Args:
        span: s, the clip within the video.
        origin: s in the video of what the model calls 0:00.
        form: what is said of the answer's form.
        folder: the checkpoint's; None: not fetched yet, so that tokens are estimated.

    Raises:
        UnreadableInput: subtitles that cannot be read.
    """
    if not (wish.subs or form):
        return NOTHING
    count = counter(folder)
    if not wish.subs:
        return Around(after=form, tokens=count(form))
    from purekv_cli.subtitles.cue import within
    from purekv_cli.subtitles.find import find
    from purekv_cli.subtitles.lines import lines

    found = find(wish.subs, info)
    there = within(found.cues, *span)
    made = lines(there, origin, wish.subs_tokens, count)
    note = found.missing
    if not note and not there:
        note = f"{found.source}: none of its {len(found.cues)} subtitles lies within the clip"
    elif made.shown < made.there:
        note = (
            f"{made.shown} of {made.there} subtitles, evenly chosen: all of them are more than {wish.subs_tokens} "
            "tokens (--subs-tokens)"
        )
    said = f"{made.shown} subtitle{'s' * (made.shown > 1)} of {found.source}" if made.shown else None
    tokens = count(made.text) + count(form)
    return Around(made.text, form, tokens, said, note)
