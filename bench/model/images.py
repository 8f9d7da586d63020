"""Images as text that a row can hold, and as the pixel values that a vision model takes."""

from __future__ import annotations

import base64
import binascii
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from PIL.Image import Image
    from torch import Tensor
    from transformers import BaseImageProcessor, PretrainedConfig

PIXELS = "pixel_values"  # transformers' name for a vision model's input
KEPT_BYTES = 2**28  # of pixel values that a process keeps, as every epoch asks for the same images
PIXELS_A_PATCH = 16  # a side, of a model without patches


def written(content: bytes) -> str:
    """The bytes of an image file as text."""
    return base64.b64encode(content).decode("ascii")


def drawn(pixels: np.ndarray) -> str:
    """Bytes (height, width) of grey, or (height, width, 3), as the text of a Netpbm file.

    It is not compressed: the same on every machine, whichever compressor Pillow was built with.
    """
    height, width, *channels = pixels.shape
    return written(f"P{6 if channels else 5}\n{width} {height}\n255\n".encode() + pixels.tobytes())


def opened(text: str) -> Image:
    """The image that a text holds, in its own mode.

    Raises:
        ValueError: the text holds no image, or one that is cut short.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        image.load()
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:  # a torn PNG: SyntaxError
        reason = "its format is unknown" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise ValueError(f"no image can be read ({reason})") from None
    if not all(image.size):
        raise ValueError(f"the image has {image.width} x {image.height} pixels")
    return image


def pixel_values(processor: BaseImageProcessor, texts: Sequence[str]) -> Float[Tensor, "images channels height width"]:
    """The images as a vision model takes them: grey ones and those with a palette become RGB before.

    Args:
        processor: the model's: resizes, rescales and normalises; draws nothing at random.
        texts: as `written` makes them.
    """
    settings = processor.to_json_string()
    if settings not in _kept:
        _kept.clear()
        _kept[settings] = _keeping(processor)
    return torch.stack([_kept[settings](text) for text in texts])


_kept: dict[str, Callable[[str], Tensor]] = {}  # of one image processor, by its settings


def _keeping(processor: BaseImageProcessor) -> Callable[[str], Tensor]:
    def processed(text: str) -> Tensor:
        found: Tensor = processor(opened(text).convert("RGB"), return_tensors="pt")[PIXELS][0]
        return found

    height, width = image_size(processor)
    return functools.lru_cache(maxsize=max(1, KEPT_BYTES // (12 * height * width)))(processed)


def image_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of what an image processor makes of a square image."""
    from PIL import Image

    blank = Image.new("RGB", (32, 32))
    height, width = processor(blank, return_tensors="pt")[PIXELS].shape[-2:]
    return int(height), int(width)


def num_patches(config: PretrainedConfig, size: tuple[int, int]) -> int:
    """Number of patches of an image, of which a vision model makes tokens.

    Args:
        config: the model's.
        size: height and width of the image in pixels.
    """
    side = getattr(config, "patch_size", None)
    side = side if isinstance(side, int) else PIXELS_A_PATCH
    return max(1, size[0] // side) * max(1, size[1] // side)


def is_of_images(batch: Mapping[str, Any]) -> bool:
    """Whether a batch holds images."""
    return PIXELS in batch
