"""Makes the goldens in this folder from transformers' own code. Run once, by hand; the tests only read the results.

Positions come from `get_rope_index` of transformers 4.57.1, and of 4.49.0 where seconds are fractional: 4.57.1 already
truncates them to integers. Both agree on whole seconds. Pixels come from Qwen2VLVideoProcessor of transformers 5.23
with torchvision 0.28; beside a CPU torch its compiled part does not load, and resizing does not need it.

    pip install --target old  "transformers==4.57.1"      # and the same for 4.49.0
    PYTHONPATH=old:. python tests/data/make_goldens.py positions
    PYTHONPATH=torchvision:. python tests/data/make_goldens.py pixels
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers

from tests.models.golden_cases import (
    END,
    IMAGE,
    MERGE,
    PIXELS,
    START,
    TOKENS_PER_SECOND,
    VIDEO,
    PositionCase,
    digest,
    mixes,
    sweep,
)

HERE = Path(__file__).parent
FRACTIONAL_RELEASE, WHOLE_RELEASE = "4.49.0", "4.57.1"


def reference_positions(case: PositionCase) -> tuple[torch.Tensor, torch.Tensor]:
    """([3, B, N], next position [B]) by the installed transformers."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

    owner = modeling.Qwen2_5_VLForConditionalGeneration
    if not hasattr(owner, "get_rope_index") or transformers.__version__ == WHOLE_RELEASE:
        owner = modeling.Qwen2_5_VLModel
    config = SimpleNamespace(
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        vision_config=SimpleNamespace(spatial_merge_size=MERGE, tokens_per_second=TOKENS_PER_SECOND),
    )
    tensors = case.tensors()
    positions, deltas = owner.get_rope_index(SimpleNamespace(config=config), **tensors)
    valid = tensors["attention_mask"].bool()
    after = torch.stack([positions[:, row, valid[row]].max() + 1 for row in range(len(valid))])
    # The delta is relative to the unpadded length in 4.57.1's text-only branch only; check it where it is unambiguous.
    if valid.all():
        assert torch.equal(after, deltas.flatten() + valid.shape[1])
    return positions, after


def make_positions() -> None:
    """Add what the installed release can tell to positions.json."""
    release = transformers.__version__
    path = HERE / "positions.json"
    golden = json.loads(path.read_text()) if path.exists() else {}
    if release == FRACTIONAL_RELEASE:
        golden["sweep"] = [
            f"{digest(positions)} {int(after[0])}" for positions, after in map(reference_positions, sweep())
        ]
    groups = {"mixes, fractional": mixes(True)} if release == FRACTIONAL_RELEASE else {"mixes, whole": mixes(False)}
    for group, cases in groups.items():
        golden[group] = {}
        for case in cases:
            positions, after = reference_positions(case)
            golden[group][case.name] = {"positions": positions.tolist(), "next": after.tolist()}
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


def make_pixels() -> None:
    """Write pixels.json (grids and hashes) and pixels.safetensors (the small cases whole)."""
    from safetensors.torch import save_file

    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        for operator in (name, f"_{name}_backward"):
            operators.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from transformers import Qwen2VLVideoProcessor

    golden, whole = {}, {}
    for case in PIXELS:
        processor = Qwen2VLVideoProcessor(
            min_pixels=case.min_pixels, max_pixels=case.max_pixels, cap_pixels_per_frame=False
        )
        made = processor(case.pixels(), return_tensors="pt")
        values = made["pixel_values_videos"]
        golden[case.name] = {"grid": made["video_grid_thw"].tolist(), "sha256": digest(values)}
        if case.full:
            whole[case.name] = values.contiguous()
    (HERE / "pixels.json").write_text(json.dumps(golden, indent=1) + "\n")
    save_file(whole, HERE / "pixels.safetensors")


if __name__ == "__main__":
    {"positions": make_positions, "pixels": make_pixels}[sys.argv[1]]()
