"""Exported graphs beside torch: speed at one face and at many, size, and what eight bits cost.

    python benchmarks/export.py RUN...          # runs of specialists, whose data can be had again

Each run is exported to ONNX in float32 and in eight bits; the loss of accuracy of the second on the
run's validation part is printed. Then the model, answering without gradients, and both graphs
answer the same faces in turn, on one thread.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch
from bench import Action, Bench, parser

from faceaffect.export.graph import Answers, example_faces
from faceaffect.export.run import NAMES, export
from faceaffect.models.exported import describe_model
from faceaffect.models.loading import load_model
from faceaffect.models.onnx import open_session
from faceaffect.runs.cost import device_name

BATCHES = (1, 32)


def compare(run: Path, bench: Bench) -> None:
    """Export a run and print how its graphs compare with the model."""
    with tempfile.TemporaryDirectory() as folder:
        small = export(run, "onnx", Path(folder), int8=True)
        whole = Path(folder) / NAMES["onnx"]
        loaded = load_model(run)
        model, size = Answers(loaded).eval(), describe_model(loaded)["image_size"]
        sessions = {"onnxruntime": open_session(whole), "onnxruntime, int8": open_session(small)}
        for count in BATCHES:
            faces = example_faces(count, size)
            given = {"image": faces.numpy()}
            actions: dict[str, Action] = {"torch": partial(model, faces)}
            for name, session in sessions.items():
                actions[name] = partial(session.run, None, given)
            print(f"\n{run.parent.name}, {count} faces at once, milliseconds")
            with torch.inference_mode():
                taken = bench.run(actions)
            for name in sessions:
                print(f"{name}: {taken['torch'] / taken[name]:.2f} times as fast as torch")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = options.parse_args()
    bench = Bench("cpu", args.rounds)
    print(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}")
    for run in args.runs:
        compare(run, bench)


if __name__ == "__main__":
    main()
