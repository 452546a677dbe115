"""The preset as a TOML file: what was chosen, and beside it, as comments, what was measured and how."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from purekv_cli.calibrate.choose import ENOUGH, Choice, Cost, work
from purekv_cli.calibrate.table import rows
from purekv_cli.presets import choose as preset_of
from purekv_cli.settings import ClipSettings


def to_toml(
    name: str, names: Sequence[str], budget: float, choice: Choice, found: Sequence[Cost], facts: Mapping[str, Any]
) -> str:
    """
    Args:
        name: the model's, as reports show it.
        names: those that the preset is for; its clip settings are those of the preset they have now.
    """
    lines = [f"# {key}: {value}" for key, value in facts.items()]
    lines += ["#", *(f"# {line}".rstrip() for line in rows(found)), ""]
    lines += [f"title = {_text(f'{name}: calibrated')}", f"models = {_text(list(names))}", "calibrated = true", ""]
    lines += ["[method]", 'policy = "purekv"', f'budget = "{budget:g}"', 'observe = "question"']
    about = f"for purekv-paper; mean rank correlation {choice.correlation:.2f}"
    lines.append(f"score_layers = {list(choice.score_layers)}  # {about}")
    few = "" if all(cost.decides for cost in found) else f"; {ENOUGH} questions about two clips are needed to tell"
    if choice.propagate:
        left = work(choice.propagate, facts["layers"])
        lines.append(f'propagate = "{choice.propagate.layer}:{choice.propagate.share:g}"  # {left:.0%} of the work')
    else:
        lines.append(f"# propagation: off, no layer and share within the tolerance{few}")
    if choice.layer_weights:
        lines.append(f"layer_weights = {list(choice.layer_weights)}")
    else:
        lines.append(f"# layer_weights: equal, no shape of equal bytes is clearly better{few}")
    if choice.preamble_layers is not None:
        lines.append(f"preamble_layers = {list(choice.preamble_layers)}  # these keep the text before the video")
    if choice.carry < 1:
        lines.append(f"carry = {choice.carry:g}")
    if choice.sparse is not None:
        lines += ["", "[method.sparse]", f"enabled = {_text(choice.sparse)}"]
    clip = _clip(preset_of(None, names).clip)
    return "\n".join([*lines, *(["", "[clip]", *clip] if clip else [])]) + "\n"


def command(arguments: Sequence[str]) -> str:
    return shlex.join(["purekv", *arguments])


def _clip(settings: ClipSettings) -> list[str]:
    values = {field: getattr(settings, field) for field in ClipSettings.__dataclass_fields__}
    return [f"{field} = {_text(value)}" for field, value in values.items() if value is not None]


def _text(value: Any) -> str:
    """Strings, numbers, lists of them and truth values are written alike in JSON and TOML."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
