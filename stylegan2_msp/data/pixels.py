"""Image files to arrays and back; only these formats, no more pixels than allowed."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from stylegan2_msp.errors import UserError

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff")
CHANNELS = {"L": 1, "RGB": 3}
RESOLUTIONS = tuple(2**k for k in range(2, 11))
MAX_FILE_BYTES = 32 << 20
MAX_PIXELS = 100_000_000
# Files over MAX_PIXELS are refused in one line, which Pillow's own warning would double. Set once and not around each
# call, since filters belong to the whole process and images are decoded by threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image; hidden ones do not."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file is hidden by its own name or a folder's (._NAME of macOS, .ipynb_checkpoints/...)."""
    return any(part.startswith(".") for part in name.split("/"))


def open_image(data: bytes, where: str) -> Image.Image:
    """Reads an image's header.

    Raises:
        UserError: it is no image of a known format, or has too many pixels.
    """
    try:
        img = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # Pillow's readers let many types through for damaged files
        raise UserError(f"{where}: is no readable image ({_reason(error)}); replace or remove it") from error
    if img.width * img.height > MAX_PIXELS:
        raise UserError(f"{where}: has {img.width}x{img.height} pixels, more than allowed; make it smaller")
    return img


def decode(data: bytes, where: str) -> np.ndarray:
    """A square grey or RGB image, uint8 [C, H, W] with H = W a power of two from 4 to 1024.

    Raises:
        UserError: it is undecodable or of another size or mode.
    """
    img = open_image(data, where)
    width, height = img.size
    if width != height or width not in RESOLUTIONS:
        raise UserError(
            f"{where}: is {width}x{height}, expected a square with sides a power of two from 4 to 1024; "
            "convert with 'dataset_tool.py folder --resolution'"
        )
    if img.mode not in CHANNELS:
        raise UserError(
            f"{where}: has colour mode {img.mode}, expected L (grey) or RGB; convert with 'dataset_tool.py folder'"
        )
    pixels = load_pixels(img, where)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def load_pixels(img: Image.Image, where: str) -> np.ndarray:
    """The pixels of an opened image, uint8 [H, W] or [H, W, 3].

    Raises:
        UserError: the data are damaged.
    """
    try:
        return np.asarray(img)
    except Exception as error:  # as above
        raise UserError(f"{where}: is a damaged image ({_reason(error)}); replace or remove it") from error


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 [C, H, W]; quick rather than small."""
    img = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    img.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "unknown format"
    return str(error)[:120] or type(error).__name__
