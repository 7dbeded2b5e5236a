"""Thumbnails of good, odd and hostile pictures."""

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from PIL import ExifTags, Image

from tasks.images import MAX_PIXELS, thumbnail


def encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(content: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    picture.load()
    return picture


@pytest.mark.parametrize(
    ("kind", "result"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WEBP"), ("GIF", "PNG"), ("BMP", "PNG"), ("TIFF", "PNG")],
)
def test_keeps_proportions_and_says_what_it_made(kind: str, result: str) -> None:
    made = thumbnail(encoded(Image.new("RGB", (800, 400), "teal"), kind), width=100, height=100)
    picture = decoded(made["image"])
    assert (made["format"], made["width"], made["height"]) == (result, 100, 50)
    assert (picture.format, picture.size) == (result, (100, 50))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_of_pixels(mode: str) -> None:
    kind = "TIFF" if mode in ("CMYK", "I", "F", "I;16") else "PNG"
    made = thumbnail(encoded(Image.new(mode, (300, 300)), kind), width=30, height=30)
    assert decoded(made["image"]).size == (30, 30)


def test_sixteen_bit_grey_stays_grey() -> None:
    made = thumbnail(encoded(Image.new("I;16", (300, 300), 32768), "PNG"), width=30, height=30)
    assert decoded(made["image"]).getpixel((5, 5)) in (127, 128)


def test_never_enlarges() -> None:
    made = thumbnail(encoded(Image.new("RGB", (10, 5)), "PNG"))
    assert (made["width"], made["height"]) == (10, 5)


def test_is_turned_upright_and_leaves_metadata_out() -> None:
    picture = Image.new("RGB", (400, 200), "red")
    picture.paste("blue", (0, 0, 200, 200))  # stored left half blue; orientation 6 turns it to the top
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "nobody's business"
    made = thumbnail(encoded(picture, "JPEG", exif=exif, quality=95), width=100, height=100)
    small = decoded(made["image"]).convert("RGB")
    assert small.size == (50, 100)
    top, bottom = small.getpixel((25, 20)), small.getpixel((25, 80))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[2] > 200 > 50 > top[0]
    assert bottom[0] > 200 > 50 > bottom[2]
    assert not small.getexif()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_stays(kind: str) -> None:
    made = thumbnail(encoded(Image.new("RGBA", (100, 100), (255, 0, 0, 0)), kind), width=10, height=10)
    assert decoded(made["image"]).convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ("not base64!", "not base64"),
        ("bm90IGFuIGltYWdl", "not one of JPEG, PNG"),
        ("", "not one of JPEG, PNG"),
        (encoded(Image.effect_noise((200, 200), 50), "PNG")[:8000], "cannot be decoded"),
        (encoded(Image.effect_noise((200, 200), 50), "JPEG")[:8000], "cannot be decoded"),
    ],
)
def test_says_what_is_wrong_with_it(image: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        thumbnail(image)


def png_that_claims(width: int, height: int) -> str:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    data = struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk + data).decode()


@pytest.mark.parametrize("side", [MAX_PIXELS // 5000 + 1, 10_000, 15_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(ValueError, match="more than 25,000,000"):
        thumbnail(png_that_claims(side, side))


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 2049), (-1, -1)])
def test_the_box_is_bounded(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 2048"):
        thumbnail(encoded(Image.new("RGB", (10, 10)), "PNG"), width, height)
