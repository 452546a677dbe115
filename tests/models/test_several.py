"""Several videos in one prompt: the library's text and positions, every video pruned alike, and pruned = masked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from purekv_cli.errors import UsageError
from purekv_cli.method.config import Propagation, SparseConfig
from purekv_cli.models import registry
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.embed import embed_clip
from purekv_cli.video.frames import Frames
from tests.models.families import SAMPLES
from tests.models.families.truth import forward
from tests.models.test_contract import (  # the fixtures `logits` and `way` among them
    DEVICE,
    STEPS,
    Loaded,
    case,
    compare,
    finish,
    logits,  # noqa: F401
    method,
    opened,
    prunes,
    way,  # noqa: F401
)

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
ASKED = "what differs?"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = SAMPLES[request.param].write(tmp_path_factory.mktemp("several") / request.param)
    return Loaded(SAMPLES[request.param], folder, registry.load(registry.resolve(str(folder)), "float32", DEVICE))


def clip(family: Loaded, count: int, rows: int, columns: int, seconds: float, seed: int) -> Frames:
    cell = family.adapter.geometry.cell
    pixels = np.random.default_rng(seed).integers(0, 256, (count, rows * cell, columns * cell, 3), dtype=np.uint8)
    times = np.arange(count) * seconds + 0.04
    return Frames(pixels, times, times, seconds, 0.0)


def clips(family: Loaded) -> list[Frames]:
    """Of unlike lengths, sizes and rates; the second one's frames are uneven."""
    long, wide, one = clip(family, 6, 2, 3, 0.5, 1), clip(family, 4, 1, 4, 2.0, 2), clip(family, 1, 2, 2, 1.0, 3)
    times = np.array([0.5, 1.0, 7.5, 8.0])
    return [long, replace(wide, times=times, targets=times, even=False), one]


def rule(family: Loaded, ids: list[int], seen: list[Frames], grids: Any) -> list[list[int]]:
    """Rotary positions token by token: text counts on from the largest so far; a block spans time, rows, columns."""
    config: Any = family.adapter.model.config
    video, stamped = config.video_token_id, family.adapter.geometry.stamped
    cells = []  # of every video token: (block, t, h, w)
    for number, (frames, (steps, rows, columns)) in enumerate(zip(seen, grids, strict=True)):
        for step in range(steps):
            at = step
            if family.sample.architecture.startswith("Qwen2_5"):
                at = (
                    int(2 * (frames.times[2 * step] - frames.times[0]))
                    if not frames.even
                    else int(np.float32(step) * np.float32(2 * frames.seconds_per_frame) * np.float32(2))
                )
            block = (number, step) if stamped else (number, 0)
            cells += [(block, 0 if stamped else at, h, w) for h in range(rows) for w in range(columns)]
    out, following, start, current = [], 0, 0, None
    remaining = iter(cells)
    for token in ids:
        if token == video:
            block, t, h, w = next(remaining)
            if block != current:
                current, start = block, following
            row = [start + t, start + h, start + w]
        else:
            row = [following] * 3
        following = max(following, *(value + 1 for value in row))
        out.append(row)
    return out


def test_the_prompt_is_the_librarys(family: Loaded) -> None:
    seen = clips(family)
    inputs = family.adapter.prepare_several(seen, ASKED)
    content = [*({"type": "video"} for _ in seen), {"type": "text", "text": ASKED}]
    text = family.adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=family.sample.template,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text.count(family.sample.placeholder) == 3
    for frames, grid in zip(seen, inputs.layout.grids, strict=True):
        hidden = family.sample.video_text(frames, grid).replace("|", "\0")  # so that the next one is found
        text = text.replace(family.sample.placeholder, hidden, 1)
    whole = family.adapter.tokenizer.encode(text.replace("\0", "|"))
    assert inputs.input_ids[0].tolist() == whole


def test_positions_are_those_of_the_rule(family: Loaded) -> None:
    seen = clips(family)
    inputs = family.adapter.prepare_several(seen, ASKED)
    at = inputs.position_ids[1:, 0].cpu()
    assert at.T.tolist() == rule(family, inputs.input_ids[0].tolist(), seen, inputs.layout.grids)
    assert inputs.next_position == int(at.max()) + 1


def test_positions_are_the_librarys_where_it_is_right(family: Loaded) -> None:
    """Grid steps wider than long, a second apart: no bug of transformers 5 meets these."""
    if family.sample.right_in_library is None:
        pytest.skip("the library has none to ask")
    seen = [clip(family, 2, 2, 4, 0.5, 1), clip(family, 2, 1, 3, 0.5, 2)]
    inputs = family.adapter.prepare_several(seen, ASKED)
    theirs = family.sample.right_in_library(case(family, inputs, 0.5))
    assert torch.equal(inputs.position_ids[1:, 0].cpu(), theirs)


def test_every_video_is_where_its_own_features_are(family: Loaded) -> None:
    """The towers' output for each clip is that of the clip alone, in its own span."""
    seen = clips(family)
    inputs = family.adapter.prepare_several(seen, ASKED)
    together = embed_clip(family.adapter.model, inputs).features[0, inputs.layout.video]
    alone = [family.adapter.prepare(frames, ASKED) for frames in seen]
    apart = [embed_clip(family.adapter.model, each).features[0, each.layout.video] for each in alone]
    assert [grid for each in alone for grid in each.layout.grids] == list(inputs.layout.grids)
    torch.testing.assert_close(together, torch.cat(apart), atol=2e-5, rtol=0)


def test_frames_count_on_and_places_begin_anew(family: Loaded) -> None:
    layout = family.adapter.prepare_several(clips(family), ASKED).layout
    frames, spots = layout.frames_and_spots()
    assert layout.grids == ((3, 2, 3), (2, 1, 4), (1, 2, 2))
    assert frames.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 4 + [4] * 4 + [5] * 4
    assert spots.tolist() == [*range(6)] * 3 + [*range(4)] * 2 + [*range(4)]


def test_one_video_is_as_before(family: Loaded) -> None:
    frames = clip(family, 4, 2, 3, 0.5, 1)
    one, listed = family.adapter.prepare(frames, ASKED), family.adapter.prepare_several([frames], ASKED)
    assert torch.equal(one.input_ids, listed.input_ids)
    assert torch.equal(one.position_ids, listed.position_ids)
    assert listed.layout.more == ()


@pytest.mark.parametrize("policy", ["purekv", "purekv-paper", "random", "infinipot-v", "vl-cache", "dense"])
def test_pruned_is_masked(family: Loaded, way: str, policy: str, logits: list[Tensor]) -> None:  # noqa: F811
    inputs = family.adapter.prepare_several(clips(family), ASKED)
    session = opened(family.adapter, inputs, method(inputs, policy))
    answer = finish(session.first(ASKED, STEPS))
    assert prunes(session) == (policy != "dense")
    assert answer.stats.video_tokens == 30
    compare(family, answer, logits, session)


@pytest.mark.parametrize("policy", ["purekv", "random"])
def test_every_video_may_lose_tokens_and_no_text_does(family: Loaded, policy: str) -> None:
    inputs = family.adapter.prepare_several(clips(family), ASKED)
    session = opened(family.adapter, inputs, method(inputs, policy))
    finish(session.first(ASKED, STEPS))
    layout = inputs.layout
    text = sorted(set(range(layout.length)) - set(layout.video.tolist()))
    lost = set()
    for places in session.kept:
        for head in places[0]:
            kept = set(head.tolist())
            assert kept >= set(text)
            lost |= {place for place in layout.video.tolist() if place not in kept}
    spans = layout.video.split([steps * rows * columns for steps, rows, columns in layout.grids])
    assert all(lost & set(span.tolist()) for span in spans)


def test_sparse_attention_leaves_such_a_prompt_alone(
    family: Loaded,
    way: str,  # noqa: F811
    logits: list[Tensor],  # noqa: F811
) -> None:
    inputs = family.adapter.prepare_several(clips(family), ASKED)
    sparse = SparseConfig(min_tokens=8, tile=(1, 1), recent=1, content=0.1)
    session = opened(family.adapter, inputs, method(inputs, sparse=sparse))
    answer = finish(session.first(ASKED, STEPS))
    assert not answer.stats.sparse
    compare(family, answer, logits, session)


def test_tokens_that_end_are_masked_from_there_on(family: Loaded, way: str, logits: list[Tensor]) -> None:  # noqa: F811
    asked = "which of them moves?"  # to which this model's answer holds no video token
    inputs = family.adapter.prepare_several(clips(family), asked)
    start = int(family.sample.propagation.partition(":")[0])
    config = method(inputs, propagate=Propagation(layer=start, share=0.01), score_layers=(0,))
    session = opened(family.adapter, inputs, config)
    answer = finish(session.first(asked, STEPS))
    assert answer.stats.propagated == (way == "weights")
    compare(family, answer, logits, session, flowing_from=start if way == "weights" else None)


def test_a_second_question_shares_what_was_seen(family: Loaded) -> None:
    """Session.ask and the prompt asked at once keep and answer the same."""
    seen = clips(family)
    inputs, wanted = (family.adapter.prepare_several(seen, question) for question in ("why?", ASKED))
    prefix = family.adapter.prefix_length(inputs)
    assert torch.equal(torch.cat([inputs.input_ids[:, :prefix], family.adapter.tail(ASKED)], 1), wanted.input_ids)
    session, fresh = (opened(family.adapter, each, method(wanted)) for each in (inputs, wanted))
    finish(session.ask("why?", STEPS))
    again = finish(session.ask(ASKED, STEPS))
    assert finish(fresh.first(ASKED, STEPS)).token_ids == again.token_ids


def test_dense_is_the_librarys_own_answer(family: Loaded) -> None:
    inputs = family.adapter.prepare_several(clips(family), ASKED)
    session = opened(family.adapter, inputs, method(inputs, "dense"))
    tokens = list(finish(session.first(ASKED, STEPS)).token_ids)
    truth = forward(family.adapter, inputs, tokens)[inputs.layout.length - 1 :]
    assert truth[: len(tokens)].argmax(-1).tolist() == tokens


def test_transformers_users_get_the_same(family: Loaded) -> None:
    """`attach` finds the spans, grids and positions by itself, from what `generate` is given."""
    seen = [frames for frames in clips(family) if frames.even]
    inputs = family.adapter.prepare_several(seen, ASKED)
    config = method(inputs, "infinipot-v")  # asks for every token's frame
    session = opened(family.adapter, inputs, config)
    tokens = finish(session.first(ASKED, STEPS)).token_ids
    model: Any = family.adapter.model
    given = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, **inputs.features}
    with attach(model, config) as attached:
        out = model.generate(**given, max_new_tokens=len(tokens), do_sample=False)
    assert out[0, inputs.layout.length :].tolist() == list(tokens)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(attached.kept, session.kept, strict=True))


def test_a_released_template_numbers_the_videos(checkpoint: Path) -> None:
    adapter = registry.load(registry.resolve(str(checkpoint)), "float32", DEVICE)
    frames = Frames(np.zeros((2, 56, 84, 3), np.uint8), np.arange(2.0), np.arange(2.0), 1.0, 0.0)
    text = adapter.tokenizer.decode(adapter.prepare_several([frames, frames], ASKED).input_ids[0])
    block = f"<|vision_start|>{'<|video_pad|>' * 6}<|vision_end|>"
    assert f"user\nVideo 1: {block}Video 2: {block}{ASKED}<|im_end|>" in text
    assert "Video 1" not in adapter.tokenizer.decode(adapter.prepare(frames, ASKED).input_ids[0])


@pytest.mark.parametrize("name", ["internvl", "smolvlm", "video_llama_3", "qwen2_5_omni", "llava_onevision"])
def test_a_family_that_takes_one_video_says_so(name: str, tmp_path: Path) -> None:
    folder = SAMPLES[name].write(tmp_path / name)
    adapter = registry.load(registry.resolve(str(folder)), "float32", DEVICE)
    frames = Frames(np.zeros((2, 56, 84, 3), np.uint8), np.arange(2.0), np.arange(2.0), 1.0, 0.0)
    with pytest.raises(UsageError, match="takes one video a question"):
        adapter.prepare_several([frames, frames], ASKED)
