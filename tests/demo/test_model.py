"""The embedded weights answer held-out clips through the product: mp4 file, video side, engine, pruned cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLConfig

from purekv_cli.demo import MODEL_DIR, sample_clip
from purekv_cli.demo.batches import prompt_tokens
from purekv_cli.demo.clips import Clip, make_clip, read_frames, write_clip
from purekv_cli.demo.language import matches
from purekv_cli.demo.network import demo_config
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig
from purekv_cli.models.base import Adapter
from purekv_cli.models.registry import load, resolve
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer
from purekv_cli.runtime.sampling import Generation
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return load(resolve("demo"), dtype="float32", device="cpu")


def test_the_weights_belong_to_this_code() -> None:
    """The forward pass of training hard-codes what config.json says."""
    shipped, ours = Qwen2_5_VLConfig.from_pretrained(MODEL_DIR).to_dict(), demo_config().to_dict()
    for part in ("text_config", "vision_config"):
        for name in ("rope_parameters", "hidden_size", "num_attention_heads", "window_size", "tokens_per_second"):
            assert shipped[part].get(name) == ours[part].get(name), name
    assert shipped["video_token_id"] == ours["video_token_id"] == prompt_tokens().video_pad


def as_a_user_would(clip: Clip, path: Path) -> Frames:
    """Every frame of the clip's file, by the product's own video side."""
    write_clip(clip, path)
    info = probe(path)
    return decode(info, sample(info, SampleSpec(fps=1 / clip.seconds_per_frame)), threads=1)


def answers(adapter: Adapter, frames: Frames, questions: list[str], config: MethodConfig) -> Iterator[Answer]:
    session = Engine(adapter, config).open(adapter.prepare(frames, questions[0]))
    for question in questions:
        *_, last = session.ask(question, Generation(max_tokens=64))
        assert isinstance(last, Answer)
        yield last


def test_a_fifth_of_the_cache_answers_held_out_clips(adapter: Adapter, tmp_path: Path) -> None:
    right = asked = 0
    for seed in (900_001, 900_002):
        clip = make_clip(seed, "short")
        questions = list(clip.questions[::3])
        frames = as_a_user_would(clip, tmp_path / f"{seed}.mp4")
        config = MethodConfig(budget=Budget("fraction", 0.2))
        for question, answer in zip(
            questions, answers(adapter, frames, [q.text for q in questions], config), strict=True
        ):
            right += matches(answer.text, question.answer)
            asked += 1
            assert answer.finish == "stop"
            assert answer.stats.kv_bytes_kept < 0.21 * answer.stats.kv_bytes_full
    assert asked >= 10
    assert right >= 0.8 * asked


def test_the_sample_clip_is_told_in_any_wording(adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "sample.mp4"
    clip = sample_clip(path)
    info = probe(path)
    frames = decode(info, sample(info, SampleSpec(mode="uniform", max_frames=128)), threads=1)
    assert len(frames.pixels) == 2 * clip.scene.patches
    wordings = ["what happens?", "What happens in this video?", "describe the clip", "please tell me what you see"]
    told = [answer.text for answer in answers(adapter, frames, wordings, MethodConfig())]
    assert [matches(text, clip.questions[0].answer) for text in told] == [True] * len(wordings)


def test_teacher_forcing_says_what_generating_says(adapter: Adapter, tmp_path: Path) -> None:
    """evaluate.py marks an answer right exactly when greedy decoding with the whole cache gives it."""
    from purekv_cli.demo.evaluate import answer_all, load_training_model

    clip = make_clip(900_003, "short", unseen_wordings=True)
    frames = as_a_user_would(clip, tmp_path / "clip.mp4")
    pixels, seconds = read_frames(tmp_path / "clip.mp4")
    forced = list(answer_all(load_training_model(MODEL_DIR, torch.device("cpu")), clip, pixels, seconds))
    questions = clip.questions[:8]
    config = MethodConfig(policy="dense", budget=Budget("fraction", 1.0))
    given = answers(adapter, frames, [question.text for question in questions], config)
    generated = [answer.text.strip() == question.answer for answer, question in zip(given, questions, strict=True)]
    assert [answered.right for answered in forced[:8]] == generated
