import os
from pathlib import Path

import numpy as np
import pytest

from faceaffect.data import fingerprints
from faceaffect.data.dataset import FaceDataset, Samples
from faceaffect.data.fingerprints import cache_folder, one_search
from faceaffect.data.people import people
from faceaffect.schema import LabelSchema


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep fingerprints of however few files, and list the files whose ends are read."""
    names: list[str] = []
    read = fingerprints._tail

    def noted(path: str) -> bytes:
        names.append(Path(path).name)
        return read(path)

    monkeypatch.setattr(fingerprints, "FEW", 1)
    monkeypatch.setattr(fingerprints, "_tail", noted)
    monkeypatch.setenv("FACEAFFECT_CACHE", str(tmp_path / "cache"))
    return names


def write(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


def faces(folder: Path, contents: list[bytes]) -> FaceDataset:
    for i, content in enumerate(contents):
        write(folder, f"{i}.jpg", content)
    return of(folder, len(contents))


def of(folder: Path, n: int) -> FaceDataset:
    samples = Samples(
        id=np.array([f"{i}.jpg" for i in range(n)]),
        subject=np.array([f"p{i}" for i in range(n)]),
        expression=np.zeros(n, np.int64),
    )
    return FaceDataset(LabelSchema(expressions=("a",)), samples, root=folder)


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_YOUNG", -(10**18))  # the tests' files count as old


def test_files_are_read_once_and_known_by_the_next_command(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    data = faces(tmp_path / "faces", [b"one", b"two", b"one", b"longer"])
    assert people(data).identical == [[0, 2]]
    assert sorted(opened) == ["0.jpg", "1.jpg", "2.jpg"]  # nothing is as long as the last
    opened.clear()
    assert people(of(tmp_path / "faces", 4)).identical == [[0, 2]]
    assert opened == []


def test_a_file_that_changed_is_read_again(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    people(faces(tmp_path / "faces", [b"one", b"two", b"six"]))
    opened.clear()
    file = tmp_path / "faces/1.jpg"
    times = file.stat()
    file.write_bytes(b"six")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p does
    assert people(of(tmp_path / "faces", 3)).identical == [[1, 2]]
    assert opened == ["1.jpg"]


def test_only_what_is_new_in_a_folder_is_read_and_nothing_is_forgotten(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    data = faces(tmp_path / "faces", [b"one", b"two", b"six", b"two"])
    people(of(tmp_path / "faces", 3))
    opened.clear()
    assert people(data).identical == [[1, 3]]
    assert opened == ["3.jpg"]
    people(of(tmp_path / "faces", 2))
    opened.clear()
    assert people(data).identical == [[1, 3]]
    assert opened == []


def test_what_was_written_a_moment_ago_is_not_kept(tmp_path: Path, opened: list[str]) -> None:
    people(faces(tmp_path / "faces", [b"one", b"two"]))
    opened.clear()
    people(of(tmp_path / "faces", 2))
    assert sorted(opened) == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize("damage", [b"", b"no array at all"])
def test_a_damaged_file_of_fingerprints_is_as_none(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    settle(monkeypatch)
    people(faces(tmp_path / "faces", [b"one", b"one"]))
    (kept,) = cache_folder().iterdir()
    kept.write_bytes(damage)
    opened.clear()
    assert people(of(tmp_path / "faces", 2)).identical == [[0, 1]]
    assert sorted(opened) == ["0.jpg", "1.jpg"]


def test_where_nothing_can_be_kept_the_search_works(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file where the folder would be")
    monkeypatch.setenv("FACEAFFECT_CACHE", str(tmp_path / "taken"))
    assert people(faces(tmp_path / "faces", [b"one", b"one"])).identical == [[0, 1]]


def test_a_command_looks_at_files_once(tmp_path: Path, opened: list[str]) -> None:
    data = faces(tmp_path / "faces", [b"one", b"one"])
    with one_search():
        for _ in range(3):
            assert people(data).identical == [[0, 1]]
    assert sorted(opened) == ["0.jpg", "1.jpg"]


def test_ends_that_agree_are_read_whole(tmp_path: Path, opened: list[str]) -> None:
    end = bytes(5000)
    data = faces(tmp_path / "faces", [b"a" + end, b"b" + end, b"a" + end])
    assert people(data).identical == [[0, 2]]
