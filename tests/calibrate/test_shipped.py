"""The presets that ship: one for every model that has a name, and those not measured say so."""

import pytest

from purekv_cli.models.registry import ALIASES, DEMO
from purekv_cli.presets import choose


@pytest.mark.parametrize("alias", ALIASES)
def test_every_model_with_a_short_name_has_starting_values(alias: str) -> None:
    preset = choose(None, [ALIASES[alias]])
    assert preset.name != "default"
    assert (preset.calibrated, preset.method.propagate) == (False, None)


@pytest.mark.parametrize(
    "name", ["DAMO-NLP-SG/VideoLLaMA2-7B", "DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "/models/videollama2"]
)
def test_all_of_videollama2_share_a_preset_without_a_sampling_of_their_own(name: str) -> None:
    preset = choose(None, [name])
    assert preset.name == "videollama2"
    assert (preset.clip.fps, preset.clip.frames, preset.clip.sample) == (None, None, None)


def test_the_demo_models_preset_is_known_by_its_name() -> None:
    assert choose(None, [DEMO]).models == (DEMO,)
