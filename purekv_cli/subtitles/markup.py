"""From a decoded subtitle event to plain text.

FFmpeg turns every text format into ASS dialogue lines: `ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text`
with `{\\i1}` for markup, `\\N` for line breaks and `\\h` for hard spaces. It drops the tags of SubRip and WebVTT; the
entities of WebVTT it resolves, those of SubRip (which players show as HTML) it does not.
"""

import html
import re

_DRAWING = re.compile(r"\{[^}]*\\p[1-9][^}]*\}.*?(?:\{[^}]*\\p0[^}]*\}|$)", re.DOTALL)  # vector shapes, not text
_BRACE = "\\{{}"  # how FFmpeg writes a brace that a WebVTT file shows
_STAND_IN = "\ue000"
_FIELDS = 8  # before the text


def plain(event: bytes, codec: str) -> str:
    """The text of an ASS dialogue line, with line breaks and nothing else.

    Args:
        codec: the subtitle stream's; braces without a backslash are comments in ASS and text elsewhere.
    """
    text = event.decode("utf-8", "replace").split(",", _FIELDS)[-1].replace(_BRACE, _STAND_IN)
    text = _DRAWING.sub("", text)
    text = re.sub(r"\{[^}]*\}" if codec in ("ass", "ssa") else r"\{\\[^}]*\}", "", text)
    text = re.sub(r"\\[Nn]", "\n", text).replace("\\h", " ").replace(_STAND_IN, "{")
    if codec in ("srt", "subrip", "mov_text"):
        text = html.unescape(text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
