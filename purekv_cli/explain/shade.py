"""A frame whose kept patches are bright and in colour, and whose dropped ones are dim and grey.

Between them a patch takes the square root of its share: pixel values are roughly the root of the light they stand for,
and shares of a tenth, which are common where layers keep different patches, can be told from none.
"""

import numpy as np
from numpy.typing import NDArray

from purekv_cli.models.geometry import ModelGeometry

DIM = 0.25  # of its grey value: how bright a dropped patch is
_LUMA = np.array([0.299, 0.587, 0.114])


def shade(pixels: NDArray[np.uint8], shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] shaded by the patches' shares [H, W]: 1 leaves a pixel as it is, 0 leaves DIM of its grey."""
    (height, width), (rows, columns) = pixels.shape[:2], shares.shape
    bright = np.sqrt(shares)[(np.arange(height) * rows // height)[:, None], np.arange(width) * columns // width, None]
    dim = DIM * (pixels @ _LUMA)[..., None]
    return np.rint(dim + bright * (pixels - dim)).astype(np.uint8)


def seen(pixels: NDArray[np.uint8], geometry: ModelGeometry) -> NDArray[np.uint8]:
    """The part of frames [N, h, w, 3] that the model's grid covers: all, or for some families the middle square."""
    if not geometry.crop:
        return pixels
    height, width = pixels.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side]
