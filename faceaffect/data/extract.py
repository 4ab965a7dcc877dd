"""Writing the frames of a video to disk once, so that training reads them in any order."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.data.video import open_video
from faceaffect.errors import DataError
from faceaffect.files import replacing

Frame = NDArray[np.uint8]


class Extracted(NamedTuple):
    """What lies in the folder after an extraction.

    Attributes:
        frames: number of the images asked for that are there.
        failed: frame index to the reason why it has no image.
    """

    frames: int
    failed: dict[int, str]


def extract_frames(
    video: Path | str,
    folder: Path | str,
    *,
    indices: Iterable[int] | None = None,
    transform: Callable[[int, Frame], Frame] | None = None,
    size: int | None = None,
    quality: int = 95,
    progress: bool = True,
) -> Extracted:
    """Write frames of a video as JPEG files, each at :func:`frame_file`.

    A file appears whole or not at all, and those that are there are not made again, so a call that
    was interrupted is simply repeated. A frame that cannot be decoded or transformed leaves a
    ``.failed`` file with the reason, and is not tried again until that file is deleted.

    Args:
        video: video file or folder of frames.
        folder: where to write; made if missing. Use one folder for each video and transform.
        indices: frame indices from 0; None: all.
        transform: makes (H, W, 3) uint8 RGB from the index and frame, for instance an aligned
            crop. A DataError that it raises is the reason of a failed frame.
        size: side of the square to which frames are scaled before.
        quality: of the JPEG, 1 to 100.
        progress: show a bar.

    Raises:
        DataError: the video is not readable at all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open_video(video) as source:
        wanted = list(range(source.info.frames) if indices is None else indices)
        present = {file.name for file in folder.iterdir()}
        missing = sorted(i for i in set(wanted) if not _names(folder, i) & present)
        lost = set(missing)
        frames = source.frames(missing, size)
        for index, frame in track(
            frames, Path(video).name, total=len(missing), disable=not (progress and missing)
        ):
            lost.discard(index)
            try:
                image = frame if transform is None else transform(index, frame)
            except DataError as error:
                _write_failure(folder, index, str(error))
            else:
                write_atomic(frame_file(folder, index), encode_jpeg(image, quality))
        for index in lost:
            _write_failure(folder, index, f"{video}: frame {index} cannot be decoded")
    return _inventory(folder, wanted)


def frame_file(folder: Path | str, index: int) -> Path:
    """Return the file of an extracted frame, ``00012.jpg`` for frame 12."""
    return Path(folder) / f"{index:05d}.jpg"


def encode_jpeg(image: Frame, quality: int = 95) -> bytes:
    """Return an (H, W, 3) uint8 RGB image as a JPEG file."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return data.tobytes()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that other processes see whole or not at all; the last writer wins."""
    with replacing(path, alone=False) as part:
        part.write_bytes(data)


def _names(folder: Path, index: int) -> set[str]:
    file = frame_file(folder, index)
    return {file.name, file.with_suffix(".failed").name}


def _write_failure(folder: Path, index: int, reason: str) -> None:
    write_atomic(frame_file(folder, index).with_suffix(".failed"), reason.encode())


def _inventory(folder: Path, wanted: Iterable[int]) -> Extracted:
    frames, failed = 0, {}
    for index in wanted:
        marker = frame_file(folder, index).with_suffix(".failed")
        if frame_file(folder, index).exists():
            frames += 1
        elif marker.exists():
            failed[index] = marker.read_text(encoding="utf-8")
    return Extracted(frames, failed)
