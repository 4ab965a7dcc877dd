"""FABA-Bench: records as EmoLA's repository describes them, and pictures."""

import json
from pathlib import Path
from typing import Any

from faces import face, write_image


def record(number: int, said: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": said}]
    return {"source": "AffectNet", "image": f"images/{number}.jpg", "id": f"faba_{number}",
            "conversations": turns, "landmark": f"{number}.npy"} | more  # fmt: skip


def write(root: Path, train: list[Any], test: list[Any], pictures: int = 5) -> Path:
    for number in range(pictures):
        write_image(root / "images" / f"{number}.jpg", face(number % 3, number))
    (root / "train.json").write_text(json.dumps(train))
    (root / "test.json").write_text(json.dumps(test))
    return root


def tree(root: Path) -> Path:
    """Write twelve faces to train on and four to test."""
    words = ("joy", "sadness", "surprise")
    train = [record(n, f"The face shows {words[n % 3]}.") for n in range(12)]
    test = [record(n, "", label=words[n % 3].replace("joy", "happiness")) for n in range(12, 16)]
    return write(root, train, test, pictures=16)
