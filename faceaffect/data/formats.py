"""The picture formats that are read: told apart by content, decoded strictly, turned upright.

Decoders fill in what a damaged file does not say. What is read here is read by decoders that
report damage instead, so that no invented pixel reaches a model: libjpeg-turbo with warnings as
errors, and pillow, which refuses broken checksums and truncated data.
"""

import re
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.AvifImagePlugin import SUPPORTED as AVIF_SUPPORTED
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

HEAD = 64
"""So many bytes tell the format of a file."""

MAX_SCANS = 100
"""A progressive JPEG has about ten scans; thousands of empty ones would keep a decoder busy."""

# The classes themselves: Image.open would also try formats that run other programs.
_PILLOW: dict[str, Callable[[BinaryIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WebP": WebPImageFile,
    "AVIF": AvifImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "PNM": PpmImageFile,
    "JPEG 2000": Jpeg2KImageFile,
}
_SIGNATURES = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WebP", rb"RIFF....WEBP"),
    ("TIFF", rb"II[*+]\x00|MM\x00[*+]"),
    ("BMP", rb"BM.{12}[\x0c-\x7c]\x00\x00\x00"),
    ("PNM", rb"P[1-6][\s#]"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1"}
_REMEDIES = {
    "AVIF": "AVIF is read by pillow 11.3 and newer as PyPI has it: pip install -U pillow; "
    "or save the picture as PNG or JPEG",
    "HEIC": "HEIC is read where pillow-heif is: pip install pillow-heif; "
    "or save the picture as PNG or JPEG",
    "JPEG XL": "JPEG XL is not read: save the picture as PNG or JPEG",
}
_SCAN_OR_END = re.compile(rb"\xff([\xd9\xda])")
_DEPTHS = (8, 10, 12, 14, 16)


def picture_format(head: bytes) -> str | None:
    """Return the name of the picture format that a file's first bytes tell, None for none.

    >>> picture_format(b"GIF89a"), picture_format(b"ftyp is no picture by itself")
    ('GIF', None)
    """
    for name, pattern in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return name
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[i : i + 4] for i in range(16, end - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if head[8:12] in _HEIF_BRANDS else None


def is_animated(file: BinaryIO, name: str) -> bool:
    """Return whether a picture file holds several pictures that follow each other in time.

    Args:
        file: the picture, at its beginning.
        name: its format.
    """
    if name == "WebP":  # pillow would allocate the canvas, which nobody has measured yet
        head = file.read(21)
        return head[12:16] == b"VP8X" and len(head) == 21 and bool(head[20] & 2)
    if name not in ("GIF", "PNG", "AVIF") or (name == "AVIF" and not AVIF_SUPPORTED):
        return False
    try:
        return bool(_open(file, name).is_animated)  # type: ignore[attr-defined]
    except Exception:  # damage is reported by whoever reads the picture
        return False


def open_picture(data: bytes, name: str, fits: Callable[[int, int], None]) -> ImageFile:
    """Return a picture of a format that pillow reads; nothing is decoded yet.

    Args:
        data: the file.
        name: its format.
        fits: called with width and height before memory of their size is taken.

    Raises:
        ValueError: no library for it is installed.
    """
    if name == "HEIC":
        return _open_heif(data, fits)
    if name == "JPEG XL" or (name == "AVIF" and not AVIF_SUPPORTED):
        raise ValueError(_REMEDIES[name])
    if name == "WebP":
        fits(*_webp_size(data))
    picture = _open(BytesIO(data), name)
    fits(*picture.size)
    return picture


def decode(data: bytes, name: str, fits: Callable[[int, int], None]) -> NDArray[np.uint8]:
    """Decode a picture, the first one where the file holds several, and turn it upright.

    Args:
        data: the file.
        name: its format.
        fits: called with width and height before anything is decoded; it raises what is too large.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        Exception: whatever the decoder raises where the data is damaged.
    """
    if name == "JPEG" and _is_usual(data):
        return _decode_jpeg(data, fits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata
        picture = open_picture(data, name, fits)
        _refuse_preview(picture)
        deep = _is_deep(picture)
        picture.load()
    fits(*picture.size)  # a GIF's frame may be larger than the size that its head tells
    return upright(
        _eight_bits(data, picture) if deep else np.asarray(picture.convert("RGB")), picture
    )


def upright(image: NDArray[np.uint8], picture: ImageFile) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) turned as the picture that it was decoded from says."""
    # Pillow turns TIFFs itself, and writes an AVIF's own note of rotation into its EXIF block.
    turned = isinstance(picture, TiffImageFile)
    return _turn(image, 1 if turned else _exif_orientation(picture.info.get("exif")))


def _open(file: BinaryIO, name: str) -> ImageFile:
    return _PILLOW[name](file)


def _open_heif(data: bytes, fits: Callable[[int, int], None]) -> ImageFile:
    try:
        import pillow_heif
    except ImportError:
        raise ValueError(_REMEDIES["HEIC"]) from None
    heif = pillow_heif.open_heif(BytesIO(data))
    fits(*heif.size)
    picture: Any = heif.to_pillow()
    picture.info.pop("exif", None)  # it is upright by the container's own note; EXIF repeats it
    return picture  # type: ignore[no-any-return]


def _is_usual(data: bytes) -> bool:
    """Return whether the strict decoder knows a JPEG's subsampling; pillow knows any."""
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        return "subsampling" not in str(error)
    return True


def _decode_jpeg(data: bytes, fits: Callable[[int, int], None]) -> NDArray[np.uint8]:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    fits(width, height)
    exif, adobe = _jpeg_head(data)
    if colours in ("CMYK", "YCCK"):
        ink = simplejpeg.decode_jpeg(data, "CMYK").astype(np.uint16)
        ink = ink if adobe else 255 - ink  # Adobe's programs store the inverse
        image = ((ink[..., :3] * ink[..., 3:] + 127) // 255).astype(np.uint8)
    else:
        image = simplejpeg.decode_jpeg(data)
    return _turn(image, _exif_orientation(exif))


def _jpeg_head(data: bytes) -> tuple[bytes, bool]:
    """Return the EXIF block and whether Adobe's mark is there; count the scans."""
    exif, adobe, place = b"", False, 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        mark, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if mark == 0xFF:  # filling
            place += 1
            continue
        if mark == 0xDA:
            break
        content = data[place + 4 : place + 2 + length]
        if mark == 0xE1 and content.startswith(b"Exif\0\0"):
            exif = exif or content
        adobe |= mark == 0xEE and content.startswith(b"Adobe")
        place += 2 + length
    for scans, found in enumerate(_SCAN_OR_END.finditer(data, place)):
        if found[1] == b"\xd9":
            break
        if scans == MAX_SCANS:
            raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
    return exif, adobe


def _webp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 30:
        raise ValueError("truncated")
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    return width, height


def _refuse_preview(picture: ImageFile) -> None:
    """Refuse cameras' raw files: TIFFs whose first picture is a small preview."""
    tags = getattr(picture, "tag_v2", {})
    if tags.get(254, 0) & 1:
        raise ValueError("a camera's raw file, of which only a preview is read: develop it first")


def _is_deep(picture: ImageFile) -> bool:
    """Return whether samples have 16 bits, of which pillow would drop the lower eight."""
    modes = [picture.mode]
    for tile in getattr(picture, "tile", ()):
        raw = tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3]
        modes.append(str(raw))
    if any(mode.startswith("F") or mode.endswith("S") or ";32" in mode for mode in modes):
        raise ValueError("its samples are no whole numbers of 8 or 16 bits")
    return any(";16" in mode or mode == "I" for mode in modes)


def _eight_bits(data: bytes, picture: ImageFile) -> NDArray[np.uint8]:
    """Return 16-bit samples as bytes, (H, W, 3).

    Cameras and microscopes keep 10, 12 or 14 bits in files of 16, and none of them says so: the
    fewest bits that hold all samples of a picture are taken for its depth. Divided by 256, a
    picture of 12 bits would be black.
    """
    if picture.mode.startswith("I"):
        samples = np.asarray(picture).astype(np.uint32)
    else:  # pillow has no deep colours
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if read is None or read.dtype != np.uint16:
            raise ValueError("its 16-bit samples cannot be read")
        samples = read[..., 2::-1].astype(np.uint32) if read.ndim == 3 else read.astype(np.uint32)
    most = int(samples.max(initial=0))
    full = 2 ** next(bits for bits in _DEPTHS if most < 2**bits) - 1
    scaled = ((samples * 255 + full // 2) // full).astype(np.uint8)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2)


def _exif_orientation(block: bytes | None) -> int:
    if not block:
        return 1
    exif = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exif.load(block)
            value: Any = exif.get(ExifTags.Base.Orientation, 1)
        except Exception:  # a damaged note is none
            return 1
    return value if value in range(1, 9) else 1


def _turn(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return the upright picture of one that lies as EXIF's orientation 1 to 8 says."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
