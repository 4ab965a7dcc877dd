"""Public sets of questions in the layouts in which they are distributed."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from faceaffect.data.drawn_questions import drawn_questions
from faceaffect.data.questions import (
    LETTERS,
    Question,
    QuestionSet,
    each_line,
    read_questions,
    told,
)
from faceaffect.errors import DataError, RecipeError
from faceaffect.files import read_json

_EMOTION_GROUP = ("Emotion_Recognition", "Emotion_Temporal_Analysis", "Attitude_Recognition",
                  "Emotion_Intensity_Compare")  # fmt: skip
_OPTION = re.compile(r"Option\s+([A-Z])\b.*?\{(.*?)\}", re.S)


def open_set(file: str, layout: str = "lines", root: str | None = None) -> QuestionSet:
    """Return a set of questions.

    Args:
        file: a file, or a folder of files where the layout has several; ``synthetic`` for drawn
            faces.
        layout: ``lines``: the package's own; or that of a public set, a name of :data:`LAYOUTS`.
        root: of the media; by default beside the file.

    Raises:
        RecipeError: an unknown layout.
        DataError: the file is missing, or not what the layout has; file and place are named.
    """
    if file == "synthetic":
        return drawn_questions()
    if layout not in LAYOUTS:
        raise RecipeError(
            f"data.layout: '{layout}' is no layout; choose one of: {', '.join(LAYOUTS)}"
        )
    path = Path(file)
    if not path.exists():
        raise DataError(f"no questions at {path}")
    beside = path if path.is_dir() else path.parent
    return LAYOUTS[layout](path, beside if root is None else Path(root))


def _faba(path: Path, root: Path) -> QuestionSet:
    """FABA-Bench, as EmoLA's files have it: source, image, id, conversations, label, gpt4."""

    def make(plain: Any) -> Question:
        asked = next(turn["value"] for turn in plain["conversations"] if turn["from"] == "human")
        said = [turn["value"] for turn in plain["conversations"] if turn["from"] == "gpt"]
        labels, task = faba_labels(plain["label"])
        reference = plain.get("gpt4") or (said[0] if said else "")
        return Question(
            str(plain["id"]), asked.replace("<image>", "").strip(), "open", reference,
            (plain["image"],), task=task, group="FABA-Bench", labels=labels,
            note=str(plain.get("source", "")),
        )  # fmt: skip

    return QuestionSet("faba_bench", _records(path, make), root)


def faba_labels(label: Any) -> tuple[tuple[str, ...], str]:
    """Return one expression, or AUs such as AU12, and the task that they are of."""
    text = ",".join(map(str, label)) if isinstance(label, list) else str(label)
    aus = re.findall(r"(?:AU)?\s*(\d+)", text)
    if aus:
        return tuple(f"AU{int(au)}" for au in aus), "au"
    if not text.strip():
        raise ValueError("no label")
    name = text.strip().lower()
    return (_AS_NOUN.get(name, name),), "emotion"


_AS_NOUN = {"happy": "happiness", "sad": "sadness", "surprised": "surprise", "angry": "anger",
            "disgusted": "disgust", "fearful": "fear", "normal": "neutral"}  # fmt: skip


def _humanvbench(path: Path, root: Path) -> QuestionSet:
    """HumanVBench: JSON lines, a file for each task; Video, Question, choices, Answer."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]

    def reader(file: Path) -> Callable[[Any, int], Question]:
        def make(plain: Any, number: int) -> Question:
            options = _choices(plain["choices"])
            key = _letter(plain["Answer"], len(options))
            group = "emotion perception" if file.stem in _EMOTION_GROUP else "other"
            name = f"{file.stem}/{plain.get('Question_id', number)}"
            return Question(name, plain["Question"], "options", key, (plain["Video"],), options,
                            file.stem, group)  # fmt: skip

        return make

    found = [asked for file in files for asked in each_line(file, reader(file))]
    return QuestionSet("humanvbench", found, root)


def _choices(given: Any) -> tuple[str, ...]:
    """Return the texts of blocks "Option A: {text}", or of a mapping or a list."""
    if isinstance(given, Mapping):
        return tuple(str(given[letter]) for letter in sorted(given))
    if isinstance(given, list):
        joined = "\n".join(map(str, given))
        return _choices(joined) if _OPTION.search(joined) else tuple(map(str, given))
    found = _OPTION.findall(str(given))
    if [letter for letter, _ in found] != list(LETTERS[: len(found)]) or not found:
        raise ValueError("choices that are no blocks of Option A {text}, Option B {text}, ...")
    return tuple(text.strip() for _, text in found)


def _letter(given: Any, count: int) -> str:
    """Return the key as a letter.

    Raises:
        ValueError: it is no letter of an option, or there are two.
    """
    if isinstance(given, list) and len(given) != 1:
        raise ValueError(f"{len(given)} keys; a question has one")
    text = str(given[0] if isinstance(given, list) else given).strip()
    found = re.fullmatch(r"(?:Option\s*)?[(\[]?([A-Za-z])[)\].:]?", text)
    if found is None or found[1].upper() not in LETTERS[:count]:
        raise ValueError(f"the answer '{text}' is no letter from A to {LETTERS[count - 1]}")
    return found[1].upper()


def _emotion_hallucer(path: Path, root: Path) -> QuestionSet:
    """EmotionHallucer: a true and a false question about the same, right only together."""
    found: list[Question] = []
    for number, plain in enumerate(_list(path)):
        with_error = f"{path}, pair {number + 1}"
        try:
            media = tuple(
                plain[key] for key in ("video", "image", "media") if isinstance(plain.get(key), str)
            )
            for side, key in (("basic", "yes"), ("hallucination", "no")):
                half = plain[side]
                said = str(half.get("answer", key)).strip().lower()
                task = str(plain.get("type", "all"))
                found.append(
                    Question(f"{plain.get('id', number)}/{side}", half["question"], "yes_no",
                             said, media, task=task, group="EmotionHallucer",
                             pair=f"pair {plain.get('id', number)}")
                )  # fmt: skip
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{with_error}: no question: {told(error)}") from None
    return QuestionSet("emotion_hallucer", found, root)


def _ferbench(path: Path, root: Path) -> QuestionSet:
    """FERBench: lists of image_path, true_label, prompt, candidate_labels; a file for each set."""
    files = sorted(path.rglob("*_qa.json")) if path.is_dir() else [path]
    found: list[Question] = []
    for file in files:
        task = file.stem.removesuffix("_qa")

        def make(plain: Any, task: str = task) -> Question:
            labels = tuple(str(name) for name in plain["candidate_labels"])
            if plain["true_label"] not in labels:
                raise ValueError(f"the label '{plain['true_label']}' is no candidate")
            key = LETTERS[labels.index(plain["true_label"])]
            asked = "Which facial expression does the person in the picture show?"
            return Question(f"{task}/{plain['image_path']}", asked, "options", key,
                            (plain["image_path"],), labels, task, "FERBench")  # fmt: skip

        found += _records(file, make)
    return QuestionSet("ferbench", found, root)


def _facexbench(path: Path, root: Path) -> QuestionSet:
    """FaceXBench: files of category, sub-category and numbered questions with four options."""
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    found: list[Question] = []
    for file in files:
        whole = _json(file)
        try:
            group, task = str(whole["category"]), str(whole["sub-category"])
            questions = whole["questions"]
            numbered = questions.items() if isinstance(questions, dict) else enumerate(questions, 1)
        except (TypeError, KeyError) as error:
            raise DataError(f"{file}: not a file of FaceXBench: no field {error}") from None
        note = _SEEN_IN_TRAINING if file.stem.lower().startswith("rafdb") else ""
        for number, plain in numbered:
            try:
                options = _choices(plain["options"])
                media = plain.get("image_paths") or plain.get("images") or plain.get("image") or []
                media = [media] if isinstance(media, str) else media
                found.append(
                    Question(f"{file.stem}/{number}", plain.get("question") or
                             plain["question_text"], "options",
                             _letter(plain["correct_answer_option"], len(options)),
                             tuple(media), options, task, group, note=note)
                )  # fmt: skip
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(f"{file}, question {number}: no question: {told(error)}") from None
    return QuestionSet("facexbench", found, root)


_SEEN_IN_TRAINING = "from the training part of RAF-DB"
"""Such questions say little of a model that was tuned there."""


def _json(path: Path) -> Any:
    try:
        return read_json(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: no JSON: {error}") from None


def _list(path: Path) -> list[Any]:
    found = _json(path)
    if not isinstance(found, list):
        raise DataError(f"{path}: no JSON list of questions")
    return found


def _records(path: Path, make: Callable[[Any], Question]) -> list[Question]:
    found = []
    for number, plain in enumerate(_list(path), 1):
        try:
            found.append(make(plain))
        except (ValueError, TypeError, KeyError, StopIteration) as error:
            raise DataError(f"{path}, record {number}: no question: {told(error)}") from None
    return found


def _lines(path: Path, root: Path) -> QuestionSet:
    return read_questions(path, root)


LAYOUTS: dict[str, Callable[[Path, Path], QuestionSet]] = {
    "lines": _lines,
    "faba_bench": _faba,
    "humanvbench": _humanvbench,
    "emotion_hallucer": _emotion_hallucer,
    "ferbench": _ferbench,
    "facexbench": _facexbench,
}
"""Names of layouts, and what reads them from a path with the root of the media."""
