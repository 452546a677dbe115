"""What every report's HTML page shares: one base template with the style, and bars drawn to scale.

A page is one file that needs nothing else: style, pictures and drawings stand in it. Bars are to scale within their
group (bytes, seconds): people compare lengths before they read numbers.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from purekv_cli import __version__
from purekv_cli.report.svg import SERIES

_TEMPLATES = Environment(
    loader=PackageLoader("purekv_cli", "."),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a group: its name, its length, its value in words."""

    label: str
    text: str
    percent: float  # of the longest bar in its group
    strong: bool = False
    title: str = ""  # what a pointer on the value shows


def to_scale(values: Iterable[tuple[str, str, float]], strong: Collection[str] = ()) -> list[Bar]:
    """Bars of (label, text, value); those of the labels `strong` stand out."""
    values = list(values)
    most = max((value for *_, value in values), default=0) or 1
    return [Bar(label, text, 100 * value / most, label in strong) for label, text, value in values]


def render(template: str, *, title: str, under: str, broad: bool = False, **values: object) -> str:
    """The page of a template of this package, such as report/answers.html.j2.

    Args:
        under: the line below the title.
        broad: for tables of many columns.
    """
    shared = {"title": title, "under": under, "broad": broad, "version": __version__, "series": SERIES}
    return _TEMPLATES.get_template(template).render(**shared, **values)
