"""Speed of prediction end to end, its parts, and its memory along a film.

    python benchmarks/predict.py RUN                 # pictures and films of drawn faces
    python benchmarks/predict.py RUN --minutes 10    # also peak memory of a film of ten minutes

Prints faces a second of ``Predictor`` beside the same steps by hand (one picture at a time), the
share of each part, the model by itself in torch and in ONNX (where ``onnxruntime`` and
``onnxscript`` are installed), and the peak memory of a process that predicts a film of one minute
and of another of many.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from faceaffect.data.batch import FaceBatch
from faceaffect.data.faces.crop import cut
from faceaffect.data.image import read_image, resize
from faceaffect.data.synthetic import SyntheticFaces
from faceaffect.module import AffectModule
from faceaffect.prediction.predictor import Predictor
from faceaffect.runs.cost import device_name

RATE = 5  # frames a second of the films: fewer to encode, as long to look through


def scene(faces: list[np.ndarray], size: tuple[int, int], shift: int = 0) -> np.ndarray:
    height, width = size
    image = np.full((height, width, 3), (96, 104, 112), np.uint8)
    side = height // 3
    for n, face in enumerate(faces):
        x = (n * width // len(faces) + shift) % (width - side)
        image[height // 4 : height // 4 + side, x : x + side] = cv2.resize(face, (side, side))
    return image


def write_pictures(folder: Path, faces: list[np.ndarray], count: int) -> list[Path]:
    files = []
    for n in range(count):
        some = [faces[(n + k) % len(faces)] for k in range(3)]
        files.append(folder / f"{n:04d}.jpg")
        cv2.imwrite(str(files[-1]), scene(some, (720, 1280))[..., ::-1])
    return files


def write_film(path: Path, faces: list[np.ndarray], seconds: float) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        shots = [scene(faces[:2], (1080, 1920), 4 * n) for n in range(50)]
        for n in range(round(RATE * seconds)):
            frame = av.VideoFrame.from_ndarray(shots[n % 50], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def by_hand(predictor: Predictor, files: list[Path]) -> int:
    """The same steps without threads and batches."""
    count = 0
    for file in files:
        image = read_image(file)
        for face in predictor.finder.find([image])[0]:
            crop = resize(cut(image, face, predictor.crop)[0], predictor.image_size)
            pixels = torch.from_numpy(crop).permute(2, 0, 1)[None]
            batch = FaceBatch(image=pixels.to(predictor.model.device), id=["a"], subject=["a"])
            with torch.inference_mode():
                predictor.model.answer(batch)
            count += 1
    return count


class Answers(torch.nn.Module):
    """The model from pixels to answers, as one call on a tensor, which is what ONNX holds."""

    def __init__(self, model: AffectModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the answers (B, N) of each task about uint8 faces (B, 3, S, S)."""
        names = ["face"] * len(image)
        return tuple(self.model.predict(FaceBatch(image=image, id=names, subject=names)).values())


def rate(call: Callable[[], object], faces: int, seconds: float = 4.0) -> float:
    """Return faces a second of processor time, which other work disturbs less, of the best call."""
    call()
    spent, end = [], time.perf_counter() + seconds
    while not spent or time.perf_counter() < end:
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return faces / min(spent)


@torch.inference_mode()
def onnx_beside_torch(predictor: Predictor, drawn: list[np.ndarray]) -> None:
    """Print how fast the model by itself is in torch and in ONNX, and how far they differ."""
    if predictor.speaks:
        print("ONNX: left out, the model answers in words")
        return
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  what torch.onnx.export builds on
    except ImportError as error:
        print(f"ONNX: left out ({error})")
        return
    model = Answers(predictor.model.cpu()).eval()
    for count in (1, 16):
        crops = [resize(drawn[n % len(drawn)], predictor.image_size) for n in range(count)]
        image = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
        with tempfile.TemporaryDirectory() as name:
            file = str(Path(name) / "model.onnx")
            torch.onnx.export(model, (image,), file, input_names=["image"], verbose=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        feed = {"image": image.numpy()}
        pairs = zip(model(image), session.run(None, feed), strict=True)
        apart = max(float(np.abs(a.numpy() - b).max()) for a, b in pairs)
        ours = rate(lambda image=image: model(image), count)
        theirs = rate(lambda session=session, feed=feed: session.run(None, feed), count)
        print(
            f"model by itself, {count} at once, {torch.get_num_threads()} threads: torch "
            f"{ours:.0f}, ONNX {theirs:.0f} faces a second of processor time; answers at most "
            f"{apart:.1e} apart"
        )


def film_memory(run: str, film: Path, fps: float) -> None:
    """Predict a film in this process, as the parent's child, and print its peak memory."""
    predictor = Predictor(run)
    start = time.perf_counter()
    faces = sum(len(seen.faces or ()) for seen in predictor.stream(film, fps=fps))
    spent = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts = {name: f"{100 * s / spent:.0f} %" for name, s in predictor.seconds.items()}
    print(f"{film.stem}: {faces} faces, {spent:.1f} s, peak {peak:.0f} MB, {parts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--fps", type=float, default=1)
    parser.add_argument("--film", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.film:
        film_memory(args.run, args.film, args.fps)
        return
    drawn = SyntheticFaces(n=24, subjects=12)
    faces = [drawn.load(n).image for n in range(24)]
    predictor = Predictor(args.run)
    print(f"on {device_name(predictor.model.device)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_pictures(folder, faces, args.pictures)
        predictor.predict(files[:4])
        predictor.seconds = dict.fromkeys(predictor.seconds, 0.0)
        start = time.perf_counter()
        table = predictor.predict(list(files))
        spent = time.perf_counter() - start
        parts = {n: f"{100 * s / spent:.0f} %" for n, s in predictor.seconds.items()}
        print(f"Predictor: {table['face'].notna().sum() / spent:.1f} faces a second, {parts}")
        start = time.perf_counter()
        count = by_hand(predictor, files)
        print(f"by hand: {count / (time.perf_counter() - start):.1f} faces a second")
        for minutes in (1.0, args.minutes) if args.minutes else ():
            film = write_film(folder / f"{minutes:g}_minutes.mp4", faces, 60 * minutes)
            command = [sys.executable, __file__, args.run, "--film", str(film)]
            subprocess.run([*command, "--fps", str(args.fps)], check=True)
            film.unlink()
    onnx_beside_torch(predictor, faces)


if __name__ == "__main__":
    main()
