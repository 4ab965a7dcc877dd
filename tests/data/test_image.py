"""Pictures as phones, cameras, browsers and attackers make them."""

import base64
import io
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from faceaffect.cli import main
from faceaffect.data import formats
from faceaffect.data.base import create_data
from faceaffect.data.image import MAX_PIXELS, pixel_limit, read_image
from faceaffect.errors import DataError, RecipeError
from faces import face, write_image, write_table

SMOOTH = cv2.GaussianBlur(face(1, size=(60, 40)), (0, 0), 2)


def encoded(image: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def read(folder: Path, data: bytes, name: str = "face") -> np.ndarray:
    (folder / name).write_bytes(data)
    return read_image(folder / name)


def lying(orientation: int) -> np.ndarray:
    """Return what a sensor stores of SMOOTH under an orientation of EXIF: its inverse."""
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),  # to be turned clockwise
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](SMOOTH))


# Upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_noted_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read(tmp_path, encoded(lying(orientation), kind, exif=exif))
    assert image.shape == SMOOTH.shape
    assert np.abs(image.astype(int) - SMOOTH).mean() < 6


def test_an_avif_lies_as_its_container_says_whatever_its_exif_repeats(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(lying(6), "AVIF", exif=exif)
    assert b"irot" in data
    at = data.index(b"irot") + 4
    turned = data[:at] + bytes([1]) + data[at + 1 :]  # a quarter counter-clockwise
    expected = np.rot90(lying(6), 1)
    image = read(tmp_path, turned)
    assert np.abs(image.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_iphone_picture_is_read_upright(tmp_path: Path, orientation: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    heif = pillow_heif.from_pillow(Image.fromarray(lying(orientation)))
    heif.save(buffer, exif=exif.tobytes(), quality=90)
    image = read(tmp_path, buffer.getvalue(), "IMG_1.HEIC")
    assert image.shape == SMOOTH.shape
    assert np.abs(image.astype(int) - SMOOTH).mean() < 6


def test_damaged_exif_is_no_reason_to_lose_the_picture(tmp_path: Path) -> None:
    plain = encoded(SMOOTH, "JPEG")
    block = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01"
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert np.array_equal(read(tmp_path, data), read(tmp_path, plain))


# What stands behind a picture, and what is missing in it


def test_what_follows_a_picture_is_passed_over(tmp_path: Path) -> None:
    """Motion photos carry a clip, others a second picture, an advertisement or zeros."""
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        plain = encoded(SMOOTH, kind)
        whole = read(tmp_path, plain)
        film = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(300_000)
        jpeg = encoded(SMOOTH[:20], "JPEG")
        for trailer in (film, jpeg[: len(jpeg) // 2], bytes(1000), b"\xff\xda\xff\xd8" * 50):
            assert np.array_equal(read(tmp_path, plain + trailer), whole), kind


def damaged(progressive: bool = False) -> dict[str, bytes]:
    """Return JPEGs that any lenient decoder reads, filling in what is missing."""
    image = cv2.GaussianBlur(face(1, size=(200, 160)), (0, 0), 2)
    whole = encoded(image, "JPEG", quality=90, progressive=progressive)
    scan = whole.index(b"\xff\xda")
    place = scan + (len(whole) - scan) * 6 // 10
    return {
        "a hole": whole[:place] + whole[place + 60 :],
        "zeros": whole[:place] + bytes(60) + whole[place + 60 :],
        "ended": whole[:place] + b"\xff\xd9",
        "cut": whole[:place],
    }


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_decoder_warns_is_refused(tmp_path: Path, progressive: bool) -> None:
    for name, data in damaged(progressive).items():
        with pytest.raises(DataError, match="not readable as an image: JPEG"):
            read(tmp_path, data, name)
        if name != "cut":
            lenient = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert lenient.shape == (200, 160, 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("BMP", {}), ("GIF", {}),
     ("AVIF", {}), ("TIFF", {}), ("PPM", {})],
)  # fmt: skip
def test_a_picture_that_ends_too_early_is_refused(
    tmp_path: Path, kind: str, options: dict[str, str]
) -> None:
    data = encoded(face(2), kind, **options)
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(DataError, match="not readable as an image"):
            read(tmp_path, data[: int(len(data) * part)])


def test_damaged_pictures_are_left_out_counted_and_named(tmp_path: Path) -> None:
    for i in range(12):
        write_image(tmp_path / f"{i}.jpg", face(i, size=(96, 96)))
    (tmp_path / "3.jpg").write_bytes(damaged()["a hole"])
    table = write_table(
        tmp_path / "t.csv", [{"image": f"{i}.jpg", "AU1": i % 2} for i in range(12)]
    )
    module = create_data("csv", table=str(table), protocol="all", num_workers=0)
    (batch,) = module.test_dataloader()
    assert len(batch["id"]) == 11
    assert list(module.skipped) == ["3.jpg"]
    assert "JPEG" in module.skipped["3.jpg"]


# Depth and colours


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("grey", [True, False])
def test_few_bits_in_a_file_of_sixteen_are_not_black(
    tmp_path: Path, suffix: str, bits: int, grey: bool
) -> None:
    image = face(1) if not grey else face(1)[..., 0]
    image[:4, :4] = 255
    deep = np.round(image / 255 * (2**bits - 1)).astype(np.uint16)
    found = read_image(write_image(tmp_path / f"deep{suffix}", deep))
    expected = image if not grey else np.repeat(image[..., None], 3, 2)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_samples_that_are_no_bytes_are_refused_by_name(tmp_path: Path) -> None:
    for dtype in (np.float32, np.int32):
        data = encoded(face(1)[..., 0].astype(dtype), "TIFF")
        with pytest.raises(DataError, match="no whole numbers of 8 or 16 bits"):
            read(tmp_path, data)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_colour_model_becomes_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(SMOOTH).convert(mode)
    kinds = {"CMYK": ["JPEG", "TIFF"], "YCbCr": ["JPEG"], "P": ["PNG", "GIF"], "L": ["PNG", "JPEG"]}
    for kind in kinds.get(mode, ["PNG"]):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
        assert np.abs(read(tmp_path, buffer.getvalue()).astype(int) - expected).max() <= 2


def test_jpegs_have_the_pixels_of_the_library_that_everybody_uses(tmp_path: Path) -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}):
        data = encoded(face(3, size=(71, 53)), "JPEG", **options)
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.array_equal(read(tmp_path, data), expected)


UNUSUAL = (  # 24 x 16 pixels of two slopes, their colours sampled at a third
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwg"
    "IyYnKSopGR8tMC0oMCUoKSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo"
    "KCgoKCgoKCgoKCgoKCgoKCj/wAARCAAQABgDATEAAhEBAxEB/8QAFgABAQEAAAAAAAAAAAAAAAAABgUH/8QAGRAAAgMBAAAA"
    "AAAAAAAAAAAAAAQGIjGh/8QAFQEBAQAAAAAAAAAAAAAAAAAABgT/xAAaEQACAwEBAAAAAAAAAAAAAAAABAUGITIx/9oADAMB"
    "AAIRAxEAPwDGUY/lBAjH8oIEY/lOFLrvogrEhzpeRj+UECMfynBAjH8pwJOugasSHOn/2Q=="
)


def test_a_jpeg_of_unusual_sampling_is_read(tmp_path: Path) -> None:
    data = base64.b64decode(UNUSUAL)
    image = read(tmp_path, data).astype(int)
    columns, rows = np.arange(24) * 10, np.arange(16)[:, None] * 15
    assert np.abs(image[..., 0] - columns).mean() < 9
    assert np.abs(image[..., 1] - rows).mean() < 9
    with pytest.raises(DataError, match="truncated"):
        read(tmp_path, data[:-40])


# Formats whose library is not there, and what only looks like a picture


def test_a_missing_library_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    avif = encoded(SMOOTH, "AVIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(formats, "AVIF_SUPPORTED", False)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    for data, remedy in ((avif, "pip install -U pillow"), (heic, "pip install pillow-heif"),
                         (b"\xff\x0a" + bytes(90), "JPEG XL is not read")):  # fmt: skip
        with pytest.raises(DataError, match=remedy) as caught:
            read(tmp_path, data, "phone.pic")
        assert str(tmp_path / "phone.pic") in str(caught.value)


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    for kind in ("PNG", "WEBP", "AVIF", "BMP"):
        assert read(tmp_path, encoded(SMOOTH, kind), "face.jpg").shape == SMOOTH.shape
    for data in (
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4" + bytes(90),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"PK\3\4" + bytes(90),
    ):
        with pytest.raises(DataError, match="not readable as an image"):
            read(tmp_path, data, "face.png")


def test_a_raw_file_is_not_mistaken_for_its_preview(tmp_path: Path) -> None:
    data = encoded(SMOOTH, "TIFF", tiffinfo={254: 1})
    with pytest.raises(DataError, match="camera's raw file"):
        read(tmp_path, data, "photo.dng")


# Files that hurt


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without FIFOs")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    cases = {"fifo.png": "no regular file", "zero.png": "no regular file", "folder.png": "a folder"}
    for name, reason in cases.items():
        with pytest.raises(DataError, match=reason):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="no name of a file"):
        read_image(tmp_path / "a\0b.png")
    write_image(tmp_path / "good.jpg", face())
    (tmp_path / "link.jpg").symlink_to(tmp_path / "good.jpg")
    assert read_image(tmp_path / "link.jpg").shape == (48, 48, 3)


def png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def patched(kind: str, old: bytes, new: bytes) -> bytes:
    data = encoded(np.full((33, 77, 3), 90, np.uint8), kind)
    assert old in data
    return data.replace(old, new)


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": lambda: png(50_000, 20_000),
    "jpeg": lambda: patched("JPEG", struct.pack(">HH", 33, 77), struct.pack(">HH", 65000, 65000)),
    "gif": lambda: patched("GIF", struct.pack("<HH", 77, 33), struct.pack("<HH", 65000, 65000)),
    "bmp": lambda: patched("BMP", struct.pack("<II", 77, 33), struct.pack("<II", 65000, 65000)),
    "ppm": lambda: patched("PPM", b"77 33", b"65000 65000"),
    "tiff": lambda: patched(
        "TIFF",
        struct.pack("<HHII", 256, 4, 1, 77),
        struct.pack("<HHII", 256, 4, 1, 70_000_000),
    ),
    "webp": lambda: b"RIFF\x60\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\xff\0" * 2 + bytes(90),
    "webp_lossless": lambda: b"RIFF\x60\0\0\0WEBPVP8L\x40\0\0\0\x2f\xff\xff\xff\x0f" + bytes(90),
    "avif": lambda: patched("AVIF", struct.pack(">II", 77, 33), struct.pack(">II", 16300, 16300)),
    "jpeg2000": lambda: patched(
        "JPEG2000", struct.pack(">II", 33, 77), struct.pack(">II", 65000, 65000)
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_huge_picture_is_refused_before_it_takes_memory(tmp_path: Path, name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"more than is read \(250 megapixels.*data.max_pixels="):
        read(tmp_path, BOMBS[name]())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_the_limit_is_a_key_of_the_data(tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", face())
    write_image(tmp_path / "large.png", face(size=(60, 60)))
    rows = [{"image": f"{name}.png", "AU1": 1} for name in ("small", "large")]
    table = write_table(tmp_path / "t.csv", rows)
    args = {"table": str(table), "protocol": "all", "num_workers": 0}
    module = create_data("csv", **args, max_pixels=48 * 48)
    (batch,) = module.test_dataloader()
    assert batch["id"] == ["small.png"]
    assert "60 x 60 pixels" in module.skipped["large.png"]
    assert "data.max_pixels=3600 allows it" in module.skipped["large.png"]
    (batch,) = create_data("csv", **args, max_pixels=3600).test_dataloader()
    assert len(batch["id"]) == 2
    with pytest.raises(RecipeError, match=r"data.max_pixels: 0 is not positive"):
        create_data("csv", **args, max_pixels=0)


def test_a_large_file_is_not_read_whatever_it_holds(tmp_path: Path) -> None:
    with (tmp_path / "long.jpg").open("wb") as file:
        file.write(encoded(SMOOTH, "JPEG"))
        file.truncate(int(0.8 * MAX_PIXELS) + 1)  # a hole: no byte on the disk
    with pytest.raises(DataError, match="200 MB"):
        read_image(tmp_path / "long.jpg")


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path: Path) -> None:
    data = encoded(SMOOTH, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    with pytest.raises(DataError, match="more than 100 scans"):
        read(tmp_path, data[:-2] + scan * 5000 + b"\xff\xd9")


def test_when_no_picture_can_be_read_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first validation batch is empty, and so are all others."""
    for i in range(10):
        (tmp_path / f"{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes([i] * 99))
    rows = [
        {"image": f"{i}.HEIC", "subject": f"s{i}", "expression": "ab"[i % 2]} for i in range(10)
    ]
    table = write_table(tmp_path / "t.csv", rows)
    argv = ["csv_faces", f"data.table={table}", "data.num_workers=0", "data.image_size=32",
            "model.backbone={name: resnet18, image_size: 32}"]  # fmt: skip
    assert main(["check", *argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: none of the 2 samples can be read, such as ")
    assert ".HEIC: not readable as an image: HEIC" in line


# Fuzz


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "JPEG2000", "HEIF"]
)
def test_whatever_stands_in_a_file_it_is_a_picture_or_a_named_error(
    tmp_path: Path, kind: str
) -> None:
    """Ten seconds a format: the only two ends, and never more memory than the limit allows."""
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    rng = np.random.default_rng(list(kind.encode()))
    whole = bytearray(encoded(SMOOTH, kind))
    for _ in range(1000):
        data = whole.copy()
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(len(data))) if rng.random() < 0.5 else int(rng.integers(200))
            length = int(rng.integers(1, 9))
            change = rng.integers(4)
            if change == 0:
                data[place : place + length] = rng.bytes(length)
            elif change == 1:
                del data[place : place + 10 * length]
            elif change == 2:
                data[place:place] = data[: 10 * length]
            else:
                data[place : place + length] = b"\xff" * length
            if len(data) < 300:
                break
        problem = ""
        with pixel_limit(10_000_000):
            try:
                image = read(tmp_path, bytes(data))
            except DataError as error:
                problem = str(error)
        if problem:
            assert problem.startswith(str(tmp_path))
            assert "\n" not in problem
        else:
            assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4_000_000  # KB


def test_the_strict_decoder_is_strict() -> None:
    """What the reader relies on: warnings of libjpeg are errors."""
    data = encoded(SMOOTH, "JPEG", quality=95)
    cut = data[: len(data) * 3 // 4] + b"\xff\xd9"
    assert simplejpeg.decode_jpeg(cut, strict=False).shape == SMOOTH.shape
    with pytest.raises(ValueError, match="premature end"):
        simplejpeg.decode_jpeg(cut)
