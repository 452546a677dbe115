"""A folder of images as a clip, or a single image as a clip of one frame.

Files are taken in natural order (frame2 before frame10) at a stated rate; the first readable one sets the size of all.
Pillow reads them, so EXIF orientation is honoured; transparency is laid on white.
"""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from purekv_cli.errors import UnreadableInput, UsageError
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES

READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # all that Pillow raises for a bad file


def list_images(folder: Path) -> list[Path]:
    """The folder's images in natural order; hidden files and subfolders are left out."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    return sorted((file for file in files if not file.name.startswith(".")), key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


def probe_images(path: Path, images_fps: float) -> VideoInfo:
    """Facts about a folder of images or one image file, each image shown for 1 / `images_fps` seconds."""
    if not images_fps > 0:
        raise UsageError(f"{images_fps} images a second cannot be", "Give a rate above 0, such as 1.")
    folder = path.is_dir()
    files = list_images(path) if folder else [path]
    if not files:
        if any(file.suffix.lower() in VIDEO_SUFFIXES for file in path.iterdir()):
            raise UnreadableInput(f"{path} is a folder of videos", "Use purekv batch for folders of videos.")
        raise UnreadableInput(f"{path} holds no images", "Give a folder with png, jpg, webp or bmp files, or a video.")
    unreadable = 0
    for file in files:
        try:
            with Image.open(file) as image:
                mode, codec = image.mode, (image.format or file.suffix[1:]).lower()
                width, height = ImageOps.exif_transpose(image).size
        except READ_ERRORS:
            unreadable += 1
            continue
        break
    else:
        raise UnreadableInput(
            f"{path.name} could not be read as an image" if not folder else f"no image in {path} could be read",
            "Check that the files open in an image viewer; empty and cut-off ones do not.",
        )
    times = tuple(index / images_fps for index in range(len(files)))
    return VideoInfo(
        path=path,
        kind="images" if folder else "image",
        container="folder" if folder else codec,
        codec=codec,
        pixel_format=mode.lower(),
        bit_depth=16 if mode.startswith("I;16") else 8,
        width=width,
        height=height,
        rotation=0,
        duration=len(files) / images_fps,
        stated_duration=None,
        frame_times=times,
        keyframe_times=times,
        size_bytes=sum(file.stat().st_size for file in files),
        audio=False,
        damage=f"{unreadable} unreadable image{'s' * (unreadable > 1)}" if unreadable else None,
        time_base=Fraction(1, 1_000_000),
    )


def read_image(file: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One image [H, W, 3], RGB, upright, resized (bicubic) to `size` (height, width)."""
    with Image.open(file) as stored:
        image = ImageOps.exif_transpose(stored)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        if image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        return np.asarray(image)
