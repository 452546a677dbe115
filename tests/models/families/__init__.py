"""Small random models of every family, each in a folder with the files of a released checkpoint."""

from tests.models.families import (
    internvl,
    llava_next_video,
    llava_onevision,
    qwen2_5_omni,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    smolvlm,
    video_llama_3,
)

SAMPLES = {
    "qwen2_5_vl": qwen2_5_vl.SAMPLE,
    "qwen2_vl": qwen2_vl.SAMPLE,
    "qwen3_vl": qwen3_vl.SAMPLE,
    "llava_onevision": llava_onevision.SAMPLE,
    "llava_next_video": llava_next_video.SAMPLE,
    "internvl": internvl.SAMPLE,
    "smolvlm": smolvlm.SAMPLE,
    "video_llama_3": video_llama_3.SAMPLE,
    "qwen2_5_omni": qwen2_5_omni.SAMPLE,
}
