"""What the first answer of a process costs once only: with empty compile caches, and with those that it left behind.

    python -m purekv_cli.bench.first_call --shape 7b

A process builds a model with random weights and answers twice about one clip, from the file on. The first answer also
loads libraries, tries kernels, compiles them and captures the decoding graph; what it takes longer than the second is
the price of the first call. A second process starts with the caches that the first one filled.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from purekv_cli.bench.shapes import SHAPES

CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")
_TOKENS = 8  # of an answer: the graph is captured at the second


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one process, from its start on."""

    imports: float
    model: float
    first_token: float  # of the first answer, from the file on
    first_answer: float
    second_answer: float
    captures: tuple[int, int]  # graphs, after the first answer and after the second
    compiled: int = 0  # Triton kernels that were not in the caches

    @property
    def once(self) -> float:
        """What the first answer took longer."""
        return self.first_answer - self.second_answer

    @property
    def whole(self) -> float:
        """From the start of the process to the end of its first answer."""
        return self.imports + self.model + self.first_answer


def answer_twice(clip: Path, shape: str, device_name: str, frames: int, began: float) -> Spent:
    """In this process, which began at `began` (`time.time()`)."""
    from dataclasses import replace

    import torch

    from purekv_cli.bench import engines
    from purekv_cli.bench.arms import Arm
    from purekv_cli.bench.first_token import FromFile
    from purekv_cli.bench.measure import synchronize
    from purekv_cli.bench.shapes import build
    from purekv_cli.method.budget import Budget
    from purekv_cli.models import registry
    from purekv_cli.models.geometry import ModelGeometry
    from purekv_cli.models.placement import choose_device, choose_dtype
    from purekv_cli.presets import choose

    device = choose_device(device_name)
    imported = time.time()
    model = build(shape, device, choose_dtype("auto", device))
    source = FromFile(model, clip, frames, ModelGeometry.from_config(model.config.to_dict()))
    engine = engines.ours(model)
    preset = choose(None, (shape, registry.ALIASES.get(shape, shape)))
    arm = Arm("purekv", "whole", replace(preset.method, budget=Budget("fraction", 0.2)))
    synchronize(device)
    built = time.time()
    seconds, captures, first_token = [], [], 0.0
    with torch.inference_mode():
        for turn in range(2):
            start = time.time()
            stages, read = source.begun(arm, engine, _TOKENS)
            engine.decode(read, _TOKENS)
            synchronize(device)
            seconds.append(time.time() - start)
            captures.append(engine.captures)
            first_token = first_token if turn else stages.first_token
            del read
    return Spent(imported - began, built - imported, first_token, seconds[0], seconds[1], (captures[0], captures[1]))


def in_a_process(arguments: list[str], caches: Path) -> Spent:
    """`answer_twice` in a process of its own that compiles into `caches`."""
    places = {name: str(caches / name.lower()) for name in CACHES}
    known = kernels(caches)
    command = [sys.executable, "-m", "purekv_cli.bench.first_call", *arguments, "--began", repr(time.time())]
    done = subprocess.run(command, env=os.environ | places, stdout=subprocess.PIPE, text=True, check=True)
    values = json.loads(done.stdout.splitlines()[-1])
    return Spent(**values | {"captures": tuple(values["captures"]), "compiled": kernels(caches) - known})


def kernels(caches: Path) -> int:
    """How many compiled ones lie there."""
    return sum(1 for _ in caches.rglob("*.cubin"))


def table(cold: Spent, warm: Spent) -> list[str]:
    """Markdown."""
    rows = {
        "process start to imports done": (cold.imports, warm.imports),
        "model": (cold.model, warm.model),
        "first answer, from the file on": (cold.first_answer, warm.first_answer),
        "second answer": (cold.second_answer, warm.second_answer),
        "once only: first less second": (cold.once, warm.once),
        "process start to first answer": (cold.whole, warm.whole),
    }
    lines = ["| seconds | caches empty | caches filled |", "|---|---|---|"]
    lines += [f"| {name} | {a:.1f} | {b:.1f} |" for name, (a, b) in rows.items()]
    graphs = (f"{first}, {second}" for first, second in (cold.captures, warm.captures))
    lines.append(f"| graphs captured by the end of either answer | {' | '.join(graphs)} |")
    return [*lines, f"| Triton kernels compiled | {cold.compiled} | {warm.compiled} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=30, help="length of the clip, 720p")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--clip", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.clip is not None:
        spent = answer_twice(given.clip, given.shape, given.device, given.frames, given.began)
        print(json.dumps(asdict(spent)))
        return
    from purekv_cli.bench.clip import SIZE, write

    with TemporaryDirectory(prefix="purekv-first-call-") as folder:
        clip = Path(folder, "clip.mp4")
        write(clip, given.seconds, SIZE if given.shape != "tiny" else (192, 256))
        arguments = ["--shape", given.shape, "--device", given.device, "--frames", str(given.frames)]
        cold, warm = (in_a_process([*arguments, "--clip", str(clip)], Path(folder)) for _ in range(2))
    print("\n".join(table(cold, warm)))


if __name__ == "__main__":
    main()
