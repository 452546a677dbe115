"""Times that an answer mentions. Pure functions on text; what could be something else is passed over.

"1:12" may be a time, a score, a ratio or the time of day, and "12 seconds" a moment or a length. So a time needs a sign
that it is one: no hours or no minutes (0:01:05, 0:12), brackets, a word before ("at 1:12"), a place ("1:12 - a dog"
begins a line), a word behind ("the 12 second mark"), or a time before it that had one ("at 1:12, 1:30"). A word that
says otherwise goes over all signs ("won 0:12", "at 10:30 am", "the display shows 0:12", "at 12 seconds long").
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_CLOCK = r"(?:\d{1,2}:)?\d{1,3}:[0-5]\d(?:\.\d{1,3})?"
_NUMBER = r"\d{1,5}(?:\.\d{1,3})?"
_RANGE = r" ?(?:-|–|—|to|and|until|till) ?"  # noqa: RUF001
_TIME = re.compile(
    rf"(?<![\w:.,/-])(?:(?:(?P<from_clock>{_CLOCK}){_RANGE})?(?P<clock>{_CLOCK})(?!\w|[:.,]\d)"
    rf"|(?:(?P<from_number>{_NUMBER})(?: ?s| ?sec)?{_RANGE})?(?:(?P<minutes>\d{{1,4}}) ?min(?:ute)?s?,? (?:and )?)?"
    rf"(?P<number>{_NUMBER})[ -]?(?:s|secs?|seconds?)(?!\w))",
    re.IGNORECASE,
)
_ADVERBS = r"(?: (?:about|around|roughly|exactly|approximately|the|time|timestamp))*:? ?[\"'(~]?$"
_SAYS_CLOCK = re.compile(
    r"(?:\b(?:at|from|to|until|till|by|around|about|near|since|between|before|after|timestamp|time)|@)" + _ADVERBS, re.I
)
_SAYS_NUMBER = re.compile(
    r"(?:\b(?:at|from|until|till|near|since|between|before|after|timestamp|time)|@)" + _ADVERBS, re.I
)
_SAYS_SO = re.compile(r"[ -](?:marks?|into|in the (?:video|clip))\b", re.I)
_BEGINS = re.compile(r"(?:^|\n)\s*(?:[-*•] |\d+[.)] )?[\"'*]*$")
_THEN = re.compile(r"[\"'*]*(?:[:|]| ?[-–—] |\.?\s*(?:\n|$))")  # noqa: RUF001
_JOINS = re.compile(r" ?(?:,|;|/|and|or|, and|, or|to|until|till) ?", re.I)
_READS = re.compile(r"\b(?:reads?|reading|shows?|showing|displays?|displaying|says?)(?: the time)?:? ?[\"'(\[]?$", re.I)
_DAYTIME = re.compile(r" ?(?:[ap]\.?m\b|o'clock|utc|gmt|h\b)", re.I)
_LENGTH = re.compile(r"[ -](?:long|later|more|ago|apart|earlier|before|after|left|each|per|of|clip|video)\b", re.I)
_OTHER = re.compile(
    r"\b(?:scor\w*|won|wins?|winning|lost|loses?|beat\w*|defeat\w*|tied?|ratios?|aspect|odds|chapter|verses?|psalms?|"
    r"clocks?|countdown|resolution)\b|\d ?[ap]\.?m\b",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Moment:
    """One time in a text."""

    text: str  # as it stands there
    seconds: float  # as it reads, from what the writer calls 0:00
    precision: float  # s: what its last digit counts


def moments(text: str) -> list[Moment]:
    """The times that an answer mentions, in order; of a range both ends."""
    return list(_found(text))


def _found(text: str) -> Iterator[Moment]:
    end, believed = 0, False  # of the time before
    for match in _TIME.finditer(text):
        goes_on = believed and _JOINS.fullmatch(text, end, match.start()) is not None
        before, after, end = text[: match.start()], text[match.end() :], match.end()
        if match["clock"]:
            believed = goes_on or _clock_signs(match, before, after)
            elsewhere = _DAYTIME.match(after) or _READS.search(before) or _OTHER.search(_sentence(text, match))
            believed = believed and not elsewhere
        else:
            believed = (goes_on or _number_signs(match, before, after)) and not _LENGTH.match(after)
        if believed:
            yield from _read(match)


def _clock_signs(match: re.Match[str], before: str, after: str) -> bool:
    first = match["from_clock"] or match["clock"]
    bracketed = before.endswith(("[", "<", "(")) and after.startswith(("]", ">", ")"))
    begins = _BEGINS.search(before) and _THEN.match(after)
    alone = first.startswith(("0:", "00:"))
    return bool(alone or bracketed or begins or _SAYS_CLOCK.search(before) or _SAYS_SO.match(after))


def _number_signs(match: re.Match[str], before: str, after: str) -> bool:
    bracketed = before.endswith(("[", "<")) and after.startswith(("]", ">"))
    begins = _BEGINS.search(before) and re.match(r"[\"'*]*:", after)
    return bool(bracketed or begins or _SAYS_NUMBER.search(before) or _SAYS_SO.match(after))


def _sentence(text: str, match: re.Match[str]) -> str:
    """What stands around a time, as far as the next full stop or line."""
    start = max((found.end() for found in re.finditer(r"[.!?]\s|\n", text[: match.start()])), default=0)
    stop = re.compile(r"[.!?](?:\s|$)|\n").search(text, match.end())
    return text[start : stop.start() if stop else len(text)]


def _read(match: re.Match[str]) -> Iterator[Moment]:
    for name in ("from_clock", "clock", "from_number"):
        if written := match[name]:
            yield Moment(written, _seconds(written), _precision(written))
    if written := match["number"]:
        whole = match.start("minutes") if match["minutes"] else match.start("number")
        seconds = 60 * float(match["minutes"] or 0) + float(written)
        yield Moment(match.string[whole : match.end()], seconds, _precision(written))


def _seconds(written: str) -> float:
    seconds = 0.0
    for part in written.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def _precision(written: str) -> float:
    return float(10.0 ** -len(written.partition(".")[2]))
