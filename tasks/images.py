"""Tasks on images."""

import base64
import binascii
import io
import struct
import warnings
from typing import Annotated, Literal

from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from typing_extensions import TypedDict

from tasks.celery import app

Side = Annotated[int, Field(ge=1, le=2048)]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]

#: A picture is decoded completely and copied twice before it is made smaller. At 4 bytes per pixel this takes 300 MB.
MAX_PIXELS = 25_000_000
MAX_SIDE = 2048

# Pillow has 40 more formats, but each one is more code that a hostile file can attack.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# The exceptions of decoders for broken bytes. Not Exception, because that would also catch Celery's soft time limit.
_DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


class Thumbnail(TypedDict):
    """A small picture."""

    image: Annotated[str, Field(description="The picture's bytes in base64.")]
    format: Literal["JPEG", "PNG", "WEBP"]
    width: int
    height: int


@app.task(exposed=True)
def thumbnail(image: Base64, width: Side = 256, height: Side = 256) -> Thumbnail:
    """
    Make a picture small enough for a box, and keep its proportions. A picture that already fits keeps its size.

    The picture is turned upright, as its EXIF orientation says. All other metadata (a photo's place, for instance) is
    left out. JPEG, PNG and WebP keep their format; GIF, BMP and TIFF become PNG. Of an animation, the first frame is
    used.

    Args:
        image: The picture's bytes in base64: JPEG, PNG, WebP, GIF, BMP or TIFF, at most 25 million pixels.
        width: The box's width in pixels.
        height: The box's height in pixels.
    """
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"width and height must be from 1 to {MAX_SIDE}")
    with _open(_decode(image)) as picture:
        small = _shrink(picture, width, height)
        return _encode(small, picture.format or "PNG")


def _decode(image: str) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"image is not base64: {exc}") from exc


def _open(content: bytes) -> Image.Image:
    """Read the header of the picture. Its pixels are decoded later."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ValueError(f"image has more than {MAX_PIXELS:,} pixels") from exc
    except UnidentifiedImageError as exc:
        raise ValueError(f"image is not one of {', '.join(_FORMATS)}") from exc
    except _DECODER_ERRORS as exc:
        raise ValueError(f"image cannot be read: {exc}") from exc
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"image has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}")
    return picture


def _shrink(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Return *picture* upright and within the box."""
    try:
        side = 2 * max(width, height)
        picture.draft("RGB", (side, side))  # lets the decoder of a JPEG skip most of the work
        upright = _with_plain_mode(ImageOps.exif_transpose(picture))
        upright.thumbnail((width, height))
    except _DECODER_ERRORS as exc:
        raise ValueError(f"image cannot be decoded: {exc}") from exc
    return upright


def _with_plain_mode(picture: Image.Image) -> Image.Image:
    """Return a copy in a mode that can be scaled smoothly and saved: grey, RGB, or RGB with transparency."""
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    if picture.mode.startswith("I;16"):  # convert() would cut the values at 255
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return picture.convert("L" if picture.mode in ("1", "L", "I", "F") else "RGB")


def _encode(picture: Image.Image, source_format: str) -> Thumbnail:
    kind: Literal["JPEG", "PNG", "WEBP"] = "PNG"
    if source_format in ("JPEG", "MPO"):
        kind = "JPEG"
    elif source_format == "WEBP":
        kind = "WEBP"
    # A new image has only pixels: no EXIF, no comments, no colour profile.
    clean = Image.new(picture.mode, picture.size)
    clean.paste(picture)
    buffer = io.BytesIO()
    clean.save(buffer, kind)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"image": content, "format": kind, "width": clean.width, "height": clean.height}
