"""From the flags of `purekv calibrate` to its result: clips, measurements, choice, preset and picture."""

import datetime
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from purekv_cli import __version__, presets
from purekv_cli.bench.request import read_budgets, read_names
from purekv_cli.calibrate import draw
from purekv_cli.calibrate.choose import LOST, Choice, Cost, choose, clearly_best, costs, low_layers
from purekv_cli.calibrate.correlation import Matrix
from purekv_cli.calibrate.descent import descend
from purekv_cli.calibrate.measure import Measured
from purekv_cli.calibrate.preset import command, to_toml
from purekv_cli.calibrate.table import blocks, rows
from purekv_cli.calibrate.trials import Trial, carries, dials, preambles, shapes, survey
from purekv_cli.commands.model import ChosenModel, choose_model
from purekv_cli.commands.options import ClipFlags, ModelFlags
from purekv_cli.demo.clips import HELD_OUT_SEEDS, SUITES
from purekv_cli.errors import PureKVError, UnreadableInput, UsageError, unknown
from purekv_cli.eval.datasets import DataSet
from purekv_cli.eval.records import Item
from purekv_cli.eval.request import World
from purekv_cli.eval.source import ClipWorld, Files, Source, Video
from purekv_cli.method.config import Observe
from purekv_cli.method.policies import POLICIES
from purekv_cli.models import registry
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.report.units import clock
from purekv_cli.settings import settle
from purekv_cli.targets import check_target
from purekv_cli.terminal import Terminal
from purekv_cli.video.frames import Frames

if TYPE_CHECKING:
    from purekv_cli.commands.calibrate import CalibrateFlags
    from purekv_cli.models.base import Adapter

ASKED = "What happens in this video?"
LONGEST_ANSWER = 48  # tokens of dense's own answer; --max-tokens says otherwise


def run(
    videos: Sequence[str], questions: Sequence[str], flags: "CalibrateFlags", clip: ClipFlags, model: ModelFlags
) -> None:
    """Everything, in order: what can be wrong with the request is found before any work.

    Raises:
        PureKVError: a wrong flag, no such model, no clip that could be read.
    """
    terminal = Terminal(flags.quiet)
    check_target(flags.output, (".toml",))
    check_target(flags.plot, (".png",))
    budgets, policies = _budgets(flags.budget), _policies(flags.policy)
    settings = settle(clip, model)
    if not videos and settings.model.model == registry.AUTO:
        settings = replace(settings, model=replace(settings.model, model=registry.DEMO))
    world = None if videos else _world(flags, questions)
    chosen = choose_model(settings, terminal)
    source: Source
    if world:
        source = ClipWorld(world, chosen.geometry)
    else:
        data = DataSet("videos", Path(), tuple(_items(videos, questions or (ASKED,))), ())
        source = Files(data, ("videos",), None, settings, chosen)
    longest = model.max_tokens or LONGEST_ANSWER
    clips, adapter = _read(source, terminal), _load(chosen, settings.model.device, terminal)
    layers = chosen.geometry.layers
    rounds = _Rounds(adapter, clips, longest, terminal)
    surveyed = rounds.measure("1 of 3, layers", survey(layers, budgets[0], low_layers(layers)), correlate=True)
    matrices, of_layers = surveyed.matrices(), costs(surveyed, first_is_base=False)
    harm, bare = ([cost.distance for cost in of_layers if cost.trial.kind == kind] for kind in ("starved", "bare"))
    present = presets.choose(None, chosen.names).method.layer_weights
    shaped = costs(rounds.measure("2 of 3, layer budgets", shapes(layers, harm, min(budgets), present)))
    of_text = costs(rounds.measure("2 of 3, text", preambles(layers, bare, clearly_best(shaped))))
    shares = costs(rounds.measure("2 of 3, carry", carries(clearly_best(of_text))))
    ours = clearly_best(shares)
    weights, steps = descend(layers, ours, flags.steps, lambda tried: costs(rounds.measure("2 of 3, step", tried)))
    ours = replace(ours, layer_weights=weights)
    measured = rounds.measure("3 of 3, costs", dials(layers, budgets, policies, ours))
    of_dials = costs(measured)
    choice = choose(of_dials, matrices["question"].valued, ours, flags.tolerance)
    found = [*of_layers, *shaped, *of_text, *shares, *steps, *of_dials]
    facts = _facts(chosen, measured, world, videos, flags)
    name = chosen.source.name
    toml = to_toml(name, chosen.names, budgets[0], choice, found, facts)
    for line in (*rows(found), *blocks(matrices["question"])):
        terminal.note(line, style="")
    terminal.write(dumps(_record(facts, choice, found, matrices)) if flags.json else toml)
    if flags.output:
        flags.output.write_text(toml, encoding="utf-8")
        terminal.note(f"written: {flags.output}; use it with --preset {flags.output}")
    if flags.plot:
        title = f"{name}, {measured.videos} clips, {measured.questions} questions; mean over clips and KV heads"
        draw.draw(title, matrices, choice.score_layers, flags.plot)
        terminal.note(f"written: {flags.plot}")


def _read(source: Source, terminal: Terminal) -> list[tuple[Video, Frames]]:
    """All clips, a few as they are: every round reads them."""
    clips = []
    for video, frames in source.read(source.videos):
        if isinstance(frames, PureKVError):
            terminal.note(f"{source.short(video[0].video)}: {frames}", style="yellow")
        else:
            clips.append((video, frames))
    if not clips:
        raise UnreadableInput("none of the videos could be read", "The lines above say why.")
    return clips


def _load(chosen: ChosenModel, device: str, terminal: Terminal) -> "Adapter":
    stages = terminal.stages()
    try:
        return chosen.load(device, terminal, stages.update)  # type: ignore[arg-type]
    finally:
        stages.clear()


@dataclass(frozen=True, slots=True)
class _Rounds:
    """What all rounds have at hand."""

    adapter: "Adapter"
    clips: Sequence[tuple[Video, Frames]]
    longest: int
    terminal: Terminal

    def measure(self, name: str, tried: Sequence[Trial], correlate: bool = False) -> Measured:
        """Raises UsageError if the first trial, which the others are held against, could not be measured."""
        measured, began, total = Measured(), time.monotonic(), len(self.clips)
        for number, (video, frames) in enumerate(self.clips, 1):
            measured.add(self.adapter, video, frames, tried, self.longest, correlate=correlate)
            spent = time.monotonic() - began
            about = f", about {clock(spent / number * (total - number))} left" if number < total else ""
            self.terminal.note(f"purekv calibrate: round {name}: {number} of {total} clips, {clock(spent)}{about}")
        if tried[0] not in measured.outcomes:
            raise UsageError(measured.errors[tried[0]], "Name a larger --budget, or longer clips.")
        for trial, wrong in measured.errors.items():
            self.terminal.note(f"not measured: {trial.kind}, {trial.name}: {wrong}", style="yellow")
        return measured


def _world(flags: "CalibrateFlags", questions: Sequence[str]) -> World:
    suites = tuple(dict.fromkeys(name.strip() for name in flags.suite.split(",")))
    if wrong := next((name for name in suites if name not in SUITES), None):
        raise unknown("suite", wrong, SUITES)
    if questions:
        raise UsageError("the clips of the rendered world have their own questions", "Leave out -q, or name videos.")
    world = World(suites, flags.clips, flags.first_seed, flags.questions)
    if world.seeds.stop > HELD_OUT_SEEDS.stop:
        raise UsageError(
            f"seeds up to {world.seeds.stop - 1} are not all held out from training",
            f"Take seeds below {HELD_OUT_SEEDS.stop}.",
        )
    return world


def _items(videos: Sequence[str], questions: Sequence[str]) -> list[Item]:
    """Without truth: dense's own answer is followed."""
    names = list(dict.fromkeys(videos))
    return [Item("videos", v, f"{v} {n}", "free", q, "") for v in names for n, q in enumerate(dict.fromkeys(questions))]


def _budgets(text: str) -> list[float]:
    found = read_budgets(text)
    if wrong := next((budget for budget in found if budget.kind != "fraction"), None):
        raise UsageError(f"calibration wants budgets as shares, not {wrong}", "Write 0.2 or 20%.")
    return [budget.value for budget in found]


def _policies(text: str) -> list[str]:
    names = list(read_names(text))
    for name in names:
        if name not in POLICIES:
            raise unknown("policy", name, POLICIES)
    return names


def _facts(
    chosen: ChosenModel, measured: Measured, world: World | None, videos: Sequence[str], flags: "CalibrateFlags"
) -> dict[str, Any]:
    """What the preset's comments begin with."""
    seeds = (
        f"seeds {world.first_seed} to {world.seeds.stop - 1} of {' and '.join(world.suites)}"
        if world
        else ", ".join(videos)
    )
    missed = min(1.0, 3 / measured.questions)  # rule of three: seen in none of n, with 95 % rarer than this
    against = "the true answers" if world else "dense's own greedy answers"
    return {
        "date": datetime.date.today().isoformat(),
        "command": command(sys.argv[1:]),
        "model": chosen.describe(),
        "layers": chosen.geometry.layers,
        "clips": f"{measured.videos} ({seeds}), prompts of {min(measured.tokens)} to {max(measured.tokens)} tokens",
        "questions": f"{measured.questions}, along {against}; dense is right {measured.dense_right} times",
        "tolerance": f"distance {flags.tolerance:g}, {LOST:.0%} of the answers; below {missed:.0%} may go unseen",
        "versions": f"purekv {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


def _record(
    facts: dict[str, Any],
    choice: Choice,
    found: Sequence[Cost],
    matrices: dict[Observe, Matrix],
) -> dict[str, Any]:
    """For --json."""
    trial = [asdict(cost) | {"trial": cost.trial.name, "kind": cost.trial.kind} for cost in found]
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "choice": asdict(choice),
        "costs": trial,
        "correlations": {
            observe: {
                "plain": matrix.plain.tolist(),
                "valued": matrix.valued.tolist(),
                "spread": {"plain": matrix.spread[0].tolist(), "valued": matrix.spread[1].tolist()},
                "samples": matrix.samples,
            }
            for observe, matrix in matrices.items()
        },
    }
