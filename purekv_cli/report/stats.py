"""What answers cost, as a table: memory, then the time of every stage apart, so that no fast part hides a slow one."""

from collections.abc import Callable, Sequence
from textwrap import shorten

from rich.table import Table

from purekv_cli.report.units import size, span, times
from purekv_cli.runtime.events import Answer, RunStats


def _ways(stats: RunStats) -> str:
    ways = [name for name, taken in (("sparse", stats.sparse), ("propagated", stats.propagated)) if taken]
    return f" ({', '.join(ways)})" if ways else ""


RECALL = "cache from disk"  # a row only where an answer had it from there
ROWS: tuple[tuple[str, Callable[[RunStats], str]], ...] = (
    ("prompt tokens", lambda s: f"{s.prompt_tokens}"),
    ("video tokens", lambda s: f"{s.video_tokens}"),
    ("KV cache, full", lambda s: size(s.kv_bytes_full)),
    ("KV cache, kept", lambda s: size(s.kv_bytes_kept)),
    ("  times smaller", lambda s: times(s.kv_bytes_full, s.kv_bytes_kept)),
    ("KV cache, peak", lambda s: size(s.kv_bytes_peak)),
    (RECALL, lambda s: span(s.recall_seconds)),
    ("video decoding", lambda s: span(s.decode_seconds)),
    ("vision", lambda s: span(s.vision_seconds)),
    ("prefill", lambda s: span(s.prefill_seconds) + _ways(s)),
    ("  of it scoring", lambda s: span(s.scoring_seconds)),
    ("first token after", lambda s: span(s.first_token_seconds)),
    ("tokens per second", lambda s: f"{s.tokens_per_second:.1f}" if s.tokens_per_second else "-"),
    ("answer tokens", lambda s: f"{s.new_tokens}"),
)


def rows(answers: Sequence[Answer]) -> list[tuple[str, ...]]:
    """(label, value of each answer), as the terminal and the reports show them."""
    recalled = any(answer.stats.recall_seconds for answer in answers)
    told = [(label, show) for label, show in ROWS if recalled or label != RECALL]
    return [(label, *(show(answer.stats) for answer in answers)) for label, show in told]


def stats_table(answers: Sequence[Answer]) -> Table:
    """One column an answer."""
    table = Table(show_header=len(answers) > 1, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", style="dim", no_wrap=True, min_width=max(len(label) for label, _ in ROWS))
    shown = rows(answers)
    for at, answer in enumerate(answers, start=1):
        widest = max(len(row[at]) for row in shown)  # a question may be cut or wrapped, a number may not
        question = shorten(answer.question, 64, placeholder=" …")
        table.add_column(question, min_width=widest, max_width=max(28, widest), vertical="bottom")
    for row in shown:
        table.add_row(*row)
    return table
