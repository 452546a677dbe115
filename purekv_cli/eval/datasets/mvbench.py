"""MVBench (Li et al. 2024): twenty tasks, json/<task>.json, videos below video/ in the folder of their source.

Some tasks ask about a part of a video. Episodic reasoning comes as folders of frames, three a second; images are read
here at one a second, so its times are stretched threefold.
"""

from collections.abc import Iterator
from pathlib import Path

from purekv_cli.eval.datasets.entry import Entry
from purekv_cli.eval.datasets.layout import Layout, option_number, read_json, records

_CLEVRER, _PERCEPTION, _STAR = "clevrer/video_validation", "perception/videos", "star/Charades_v1_480"
_VIDEOS = {
    "action_antonym": "ssv2_video",
    "action_count": _PERCEPTION,
    "action_localization": "sta/sta_video",
    "action_prediction": _STAR,
    "action_sequence": _STAR,
    "character_order": _PERCEPTION,
    "counterfactual_inference": _CLEVRER,
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd",
    "moving_attribute": _CLEVRER,
    "moving_count": _CLEVRER,
    "moving_direction": _CLEVRER,
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "scene_transition": "scene_qa/video",
    "state_change": _PERCEPTION,
    "unexpected_action": "FunQA_test/test",
}
_FRAMES_A_SECOND = 3


def read(path: Path, folder: Path) -> Iterator[Entry]:
    task = path.stem
    stretch = _FRAMES_A_SECOND if task == "episodic_reasoning" else 1
    for number, (where, record) in enumerate(records(path, read_json(path))):
        part = {name: stretch * record[name] for name in ("start", "end") if isinstance(record.get(name), int | float)}
        yield Entry(
            where,
            {
                "video": f"video/{_VIDEOS.get(task)}/{record.get('video')}",
                "question": record.get("question"),
                "options": record.get("candidates"),
                "answer": record.get("answer"),
                "type": task,
                "id": f"{task}:{number}",
                **part,
            },
            correct=option_number(record),
            broken=None if task in _VIDEOS else f"{task} is no task of MVBench",
        )


MVBENCH = Layout("MVBench", ("json/[a-z]*_*.json",), read)
