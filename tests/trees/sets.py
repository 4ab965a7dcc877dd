"""The layouts of sets of pictures and clips, each with a handful of drawn faces."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from faceaffect.data.mafw import CLASSES as MAFW_CLASSES
from faces import face, write_clip, write_image

AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
         "unknown", "NF")  # fmt: skip
FERV = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
SIDE = 32
_SEED = iter(range(10**6))


def draw(path: Path, label: int, size: int = SIDE) -> Path:
    """Write a face that no other has."""
    return write_image(path, face(label, next(_SEED), (size, size)))


def affectnet_csv(root: Path, train: int = 22, test: int = 11) -> Path:
    """Write the lists of 2017: the n-th picture of a part has the code n % 11."""
    header = ("subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,"
              "expression,valence,arousal")  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    ring = np.stack([16 + 10 * np.cos(angle), 16 + 10 * np.sin(angle)], 1)
    for name, count in (("training", train), ("validation", test)):
        lines = [header]
        for n in range(count):
            code, file = n % 11, f"{n % 3}/{name}{n}.jpg"
            draw(root / "Manually_Annotated_Images" / file, code)
            affect = "0.5,-0.25" if code < 9 else "-2,-2"
            points = ";".join(f"{v:.2f}" for v in ring.ravel()) if code < 10 else "NULL"
            lines.append(f"{file},1,1,30,30,{points},{code},{affect}")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return root


def affectnet_npy(root: Path, train: int = 16, test: int = 8) -> Path:
    """Write the folders of 2021: the n-th picture of a part has the code n % 8."""
    for name, count in (("train_set", train), ("val_set", test)):
        for n in range(count):
            draw(root / name / "images" / f"{n}.jpg", n)
            values = {"exp": str(n % 8), "val": "-2" if n == 3 else "0.5", "aro": f"{n / 100}"}
            for key, value in values.items():
                file = root / name / "annotations" / f"{n}_{key}.npy"
                file.parent.mkdir(exist_ok=True, parents=True)
                np.save(file, np.array(value))
    return root


def votes(n: int) -> list[int]:
    """Return ten people's votes for the n-th face: mostly for class n % 8, or for none."""
    row = [0] * 10
    row[n % 8], row[(n + 1) % 8] = 7, 3
    if n % 10 == 8:
        row = [2, 2, 0, 0, 0, 0, 0, 0, 6, 0]
    if n % 10 == 9:
        row = [4, 4, 2, 0, 0, 0, 0, 0, 0, 0]
    return row


def ferplus(root: Path, *, files: bool = False, count: int = 20) -> Path:
    """Write votes and pictures of FERPlus, pictures as pixels of a table or as files."""
    usages = {
        "Training": "FER2013Train",
        "PublicTest": "FER2013Valid",
        "PrivateTest": "FER2013Test",
    }
    new, old, n = [",".join(("Usage", "Image name", *VOTES))], ["emotion,pixels,Usage"], 0
    for usage, folder in usages.items():
        for _ in range(count if usage == "Training" else 10):
            name = f"fer{n:07d}.png"
            new.append(",".join([usage, name, *map(str, votes(n))]))
            grey = face(n % 6, n, (48, 48))[..., 0]
            if files:
                write_image(root / folder / name, grey)
            old.append(f"{n % 7},{' '.join(map(str, grey.ravel()))},{usage}")
            n += 1
    root.mkdir(exist_ok=True, parents=True)
    (root / "fer2013new.csv").write_text("\n".join(new) + "\n")
    if not files:
        (root / "fer2013.csv").write_text("\n".join(old) + "\n")
    return root


def folder(root: Path, parts: tuple[str, ...] = ("",), each: int = 6) -> Path:
    """Write folders of classes, in parts or not; a file's name begins with its person."""
    for part in parts:
        for label, name in enumerate(("Happy", "neutral", "sad")):
            for n in range(each):
                draw(root / part / name / f"p{part}{n}_{label}.jpg", label)
    return root


def mafw(root: Path, *, clips: bool = False, count: int = 22) -> Path:
    """Write lists and clips: fold 1 + n % 5 tests clip n, of class n % 11, every fourth two."""
    for labels in ("single", "compound"):
        for fold in range(1, 6):
            lines: dict[str, list[str]] = {"train": [], "test": []}
            for n in range(count):
                name = MAFW_CLASSES[n % 11]
                if labels == "compound" and n % 4 == 0:
                    name = "anger_disgust"
                lines["test" if n % 5 == fold - 1 else "train"].append(f"{n:05d}.mp4 {name}")
            for part, some in lines.items():
                file = root / "Train & Test Set" / labels / "no_caption" / f"set_{fold}"
                file.mkdir(parents=True, exist_ok=True)
                (file / f"{part}.txt").write_text("\n".join(some) + "\n")
    for n in range(count):
        place = root / "data" / ("clips" if clips else "frames") / f"{n:05d}"
        write_clip(place.with_suffix(".mp4") if clips else place, n, 3, SIDE, first=100 * n)
    return root


def ferv39k(root: Path, train: int = 21, test: int = 7) -> Path:
    """Write lists and clips of two scenes; the n-th clip of a part has the class n % 7."""
    n = 0
    for part, count in (("train", train), ("test", test)):
        lines = []
        for _ in range(count):
            name = FERV[n % 7]
            clip = f"{('Action', 'War')[n % 2]}/{name}/{n:04d}"
            lines.append(f"{clip} {name}")
            write_clip(root / "2_ClipsforFaceCrop" / clip, n, 2, SIDE, first=100 * n)
            n += 1
        file = root / "4_setups" / "All_scenes" / f"{part}_All.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
    return root


def affwild2(root: Path, abaw: str = "6th ABAW", frames: int = 8) -> Path:
    """Write three films to train on (a second person in one) and two to test, with gaps."""
    base = root / f"{abaw} Annotations"
    headers = {
        "VA_Estimation": "valence,arousal",
        "EXPR_Recognition": "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
        "AU_Detection": "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26",
    }
    films = {"Train_Set": ("video1", "video1_left", "film-2"), "Validation_Set": ("7-60", "video9")}
    for part, names in films.items():
        for v, name in enumerate(names):
            for n in range(1, frames + 1):
                if n != 3:  # nobody was found in the third frame
                    draw(root / "cropped_aligned" / name / f"{n:05d}.jpg", v + n)
            for task, header in headers.items():
                lines = [header]
                for n in range(1, frames + 1):
                    au = ",".join("-1" if n == 5 else str((n + i + v) % 2) for i in range(12))
                    line = {
                        "VA_Estimation": "-5,-5" if n == 4 else f"{n / 10},{-n / 20}",
                        "EXPR_Recognition": "-1" if n == 2 else str((n + v) % 8),
                        "AU_Detection": au,
                    }
                    lines.append(line[task])
                file = base / f"{task}_Challenge" / part / f"{name}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("\n".join(lines) + "\n")
    return root


def casme2(root: Path, *, raw: bool = False, excel: bool = False, people: int = 4) -> Path:
    """Write a coding table and the pictures around each apex; each person's last has no apex."""
    emotions = ("happiness", "disgust", "repression", "surprise", "others", "sadness")
    actions = ("12", "4+L10", "R14+17", "1+2", "4+7?", "1+15")
    rows = []
    for person in range(1, people + 1):
        for n, (emotion, units) in enumerate(zip(emotions, actions, strict=True)):
            name, onset, apex, offset = f"EP{n + 1:02d}_01f", 10, 12, 14
            rows.append([person, name, "", onset, "/" if n == 4 else apex, offset, "", units,
                         emotion])  # fmt: skip
            base = "CASME2_RAW_selected" if raw else "Cropped"
            for frame in range(onset, offset + 1):
                file = f"{'' if raw else 'reg_'}img{frame}.jpg"
                draw(root / base / f"sub{person:02d}" / name / file, n)
    columns = ["Subject", "Filename", "", "OnsetFrame", "ApexFrame", "OffsetFrame", " ",
               "Action Units", "Estimated Emotion"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    file = root / "CASME2-coding-20140508.xlsx"
    if excel:
        table.to_excel(file, index=False)
    else:
        table.to_csv(file.with_suffix(".csv"), index=False)
    return root


def disfa_plus(root: Path, frames: int = 6) -> Path:
    """Write two trials of three people; picture n of a trial has the intensity (n + AU) % 6."""
    for person in ("SN001", "SN003", "SN004"):
        for trial in ("A1_AU1_TrailNo_1", "Y_HappyDescribed_TrailNo_2"):
            for n in range(frames):
                draw(root / "Images" / person / trial / f"{n:03d}.jpg", n)
            for au in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26):
                lines = ["# intensity of an action unit", "name intensity"]
                lines += [f"{n:03d}.jpg     {(n + au) % 6}" for n in range(frames)]
                file = root / "Labels" / person / trial / f"AU{au}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("\n".join(lines) + "\n")
    return root


def hub(root: Path, save: Callable[[dict, Path], object] | None = None) -> Path:
    """Write what ``datasets`` saves: two parts of pictures with class labels."""
    import datasets

    features = datasets.Features({
        "picture": datasets.Image(),
        "emotion": datasets.ClassLabel(names=["happy", "neutral", "sad"]),
        "who": datasets.Value("string"),
    })  # fmt: skip
    splits = {}
    for part, count in (("train", 12), ("validation", 6)):
        files = [str(draw(root / "files" / f"{part}{n}.png", n)) for n in range(count)]
        splits[part] = datasets.Dataset.from_dict(
            {"picture": [{"path": None, "bytes": Path(file).read_bytes()} for file in files],
             "emotion": [-1 if n == 5 else n % 3 for n in range(count)],
             "who": [f"{part[0]}{n}" for n in range(count)]}, features=features,
        )  # fmt: skip
    datasets.DatasetDict(splits).save_to_disk(str(root / "saved"))
    return root / "saved"


def kdef(root: Path, people: tuple[str, ...] = ("F01", "F02", "M01")) -> Path:
    """Write people from five sides in session A, the first also in session B, and other files."""
    sessions = [f"A{person}" for person in people] + [f"B{people[0]}"]
    for session in sessions:
        for label, code in enumerate(("AF", "AN", "DI", "HA", "NE", "SA", "SU")):
            for angle in ("FL", "HL", "S", "HR", "FR"):
                draw(root / session / f"{session}{code}{angle}.JPG", label)
    draw(root / "AF01" / "AF01V.JPG", 0)
    (root / "README.txt").write_text("KDEF")
    return root
