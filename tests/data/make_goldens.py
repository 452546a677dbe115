"""Makes the goldens in this folder from transformers' own code. Run once, by hand; the tests only read the results.

Positions come from `get_rope_index` of transformers 4.57.1, and of 4.49.0 where seconds are fractional: 4.57.1 already
truncates them to integers. Both agree on whole seconds. Pixels come from Qwen2VLVideoProcessor of transformers 5.23
with torchvision 0.28; beside a CPU torch its compiled part does not load, and resizing does not need it.

    pip install --target old  "transformers==4.57.1"      # and the same for 4.49.0
    PYTHONPATH=old:. python tests/data/make_goldens.py positions
    PYTHONPATH=torchvision:. python tests/data/make_goldens.py pixels
    PYTHONPATH=torchvision:num2words:. python tests/data/make_goldens.py families
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
from tests.models.golden_families import TIMES, pixels

HERE = Path(__file__).parent
OPERATORS = torch.library.Library("torchvision", "DEF")  # gone with this object
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

    with_torchvision()
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


def make_families() -> None:
    """Write families.json: what other families' video processors make of pixels (hashes), and processors of times."""
    with_torchvision()
    from transformers import (
        InternVLVideoProcessor,
        LlavaNextVideoVideoProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen3VLVideoProcessor,
        VideoLlama3VideoProcessor,
    )
    from transformers.models.internvl.processing_internvl import InternVLProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
    from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
    from transformers.models.video_llama_3.processing_video_llama_3 import VideoLlama3Processor

    square = {"size": {"height": 56, "width": 56}}
    middle = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    bounds = {"size": {"shortest_edge": 1, "longest_edge": 10**9}}
    processors = {
        "qwen3_vl": Qwen3VLVideoProcessor(**bounds, cap_pixels_per_frame=False),
        "video_llama_3": VideoLlama3VideoProcessor(**bounds),
        "internvl": InternVLVideoProcessor(**square),
        "llava_onevision": LlavaOnevisionVideoProcessor(**square),
        "llava_next_video": LlavaNextVideoVideoProcessor(**middle),
    }
    golden: dict[str, dict[str, object]] = {}
    made = {}
    for name, processor in processors.items():
        frames = torch.from_numpy(pixels(name)).permute(0, 3, 1, 2)
        made[name] = processor(frames, return_tensors="pt", do_sample_frames=False, return_metadata=False)
        golden[name] = {"sha256": digest(made[name]["pixel_values_videos"])}
    kept = made["video_llama_3"]["video_compression_mask"]
    golden["video_llama_3"]["kept"] = "".join(map(str, kept.int().tolist()))

    indices = [round(1000 * float(time)) for time in TIMES]
    metadata = SimpleNamespace(fps=1000, frames_indices=indices, timestamps=TIMES.tolist(), duration=None)
    given = {"video_metadata": [metadata], **made["video_llama_3"]}
    smol = SimpleNamespace(image_seq_len=4, image_token="<image>", fake_image_token="<fake_token_around_image>")
    smol.global_image_token = "<global-img>"
    texts = {
        "qwen3_vl": Qwen3VLProcessor.replace_video_token(
            SimpleNamespace(
                video_processor=processors["qwen3_vl"],
                vision_start_token="<|vision_start|>",
                vision_end_token="<|vision_end|>",
                video_token="<|video_pad|>",
                _calculate_timestamps=lambda *how: Qwen3VLProcessor._calculate_timestamps(None, *how),
            ),
            {**made["qwen3_vl"], "video_metadata": [metadata]},
            0,
        ),
        "video_llama_3": VideoLlama3Processor.replace_video_token(
            SimpleNamespace(video_token="<|video_pad|>", video_processor=processors["video_llama_3"]), given, 0
        ),
        "internvl": InternVLProcessor.replace_video_token(
            SimpleNamespace(
                start_image_token="<img>", end_image_token="</img>", image_token="<IMG_CONTEXT>", image_seq_length=4
            ),
            made["internvl"],
            0,
        ),
        "smolvlm": SmolVLMProcessor.replace_video_token(
            smol, {"pixel_values": torch.empty(1, 5, 3, 1, 1), "video_metadata": [metadata]}, 0
        ),
    }
    for name, text in texts.items():
        golden.setdefault(name, {})["text"] = text
    (HERE / "families.json").write_text(json.dumps(golden, indent=1) + "\n")


def with_torchvision() -> None:
    """Name what torchvision's compiled part would have."""
    for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        for operator in (name, f"_{name}_backward"):
            OPERATORS.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")


if __name__ == "__main__":
    {"positions": make_positions, "pixels": make_pixels, "families": make_families}[sys.argv[1]]()
