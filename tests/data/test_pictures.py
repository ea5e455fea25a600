"""Pictures as people have them: every kind is read right, or refused with its name and reason."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factory.core.errors import InputError
from factory.data.config import folder_config
from factory.data.datasets import load_data
from factory.data.pictures import decode_picture, read_picture
from factory.data.survey import survey_folder

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, rows: bytes, bits: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.95])
def test_a_png_with_a_flipped_bit_is_refused(tmp_path: Path, place: float) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[int(place * len(content))] ^= 4
    (tmp_path / "a.png").write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"cannot read the picture .*a\.png"):
        decode_picture(tmp_path / "a.png", 32)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not a picture", "no picture, or damaged at its start"),
        (png(60_000, 60_000, b""), "decompression bomb"),
        (png(11_000, 11_000, b""), "more than 100 million pixels"),
    ],
    ids=["empty", "text", "bomb", "large"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_reason_is_given(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=reason) as refused:
        decode_picture(tmp_path / "a.png", 32)
    assert "\n" not in str(refused.value)


def test_tiny_and_very_long_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "tiny.png")
    assert (decode_picture(tmp_path / "tiny.png", 32) == 9).all()
    Image.new("L", (1, 50_000), 7).save(tmp_path / "long.png")
    assert decode_picture(tmp_path / "long.png", 64).shape == (64, 64, 3)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    pixels, facts = read_picture(path, 16)
    assert facts.animated
    assert pixels[..., 0].min() > 200
    assert pixels[..., 2].max() < 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, level in (("a", 60), ("b", 200)):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.fromarray(np.full((20 + i, 30), level, np.uint8)).save(
                tmp_path / name / f"{i}.png"
            )
    return tmp_path


def test_a_survey_counts_sizes_and_colours(folder: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(folder / "a" / "red.gif")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "b" / "moving.gif", save_all=True, append_images=frames[1:])
    survey = survey_folder(folder_config(str(folder)))
    assert (survey.grey, survey.animated, survey.surveyed) == (12, 1, 14)
    assert not survey.all_grey
    assert (survey.side_px(0), survey.side_px(100)) == (4, 25)
    assert survey.majority()[1] == 0.5
    assert survey.sentences() == [
        "files of several pictures, of which the first is used: 1",
        "pictures of less than 8 pixels on one side: 1",
    ]


@pytest.mark.parametrize("memory_limit_mb", [2048, 1])
def test_all_unreadable_pictures_are_counted_and_the_first_are_named(
    folder: Path, memory_limit_mb: int
) -> None:
    whole = (folder / "a" / "0.png").read_bytes()
    for i in range(5):
        (folder / "a" / f"half{i}.png").write_bytes(whole[: len(whole) // 2])
    survey = survey_folder(folder_config(str(folder)))
    assert [path.name for path, _ in survey.unreadable].count("half0.png") == 1
    assert len(survey.unreadable) == 5
    assert "pictures that cannot be read, a build stops at them: 5 (" in survey.sentences()[0]
    with pytest.raises(InputError, match=r"half\d\.png and \d more"):
        survey.require_readable()
    changes = {"memory_limit_mb": memory_limit_mb, "image_size": 256}
    with pytest.raises(InputError, match=r"half\d\.png and \d more .*half\d\.png"):
        load_data(folder_config(str(folder)).model_copy(update=changes), seed=0)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_picture_whose_name_is_not_utf8_can_be_written_about(folder: Path) -> None:
    path = os.fsencode(folder) + b"/a/\xff.png"
    try:
        Path(os.fsdecode(path)).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    survey = survey_folder(folder_config(str(folder)))
    assert "udcff.png" in " ".join(survey.sentences()).encode().decode()
    assert survey.as_dict()["unreadable"][0]["picture"].endswith("udcff.png")
