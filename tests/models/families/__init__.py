"""Small random models of every family, each in a folder with the files of a released checkpoint."""

from tests.models.families import qwen2_5_vl, qwen2_vl, qwen3_vl

SAMPLES = {
    "qwen2_5_vl": qwen2_5_vl.SAMPLE,
    "qwen2_vl": qwen2_vl.SAMPLE,
    "qwen3_vl": qwen3_vl.SAMPLE,
}
