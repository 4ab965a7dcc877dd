"""The ``check`` command: everything that can be wrong before a training starts."""

from rich.table import Table

from faceaffect.data.base import FaceDataModule
from faceaffect.module import AffectModule
from faceaffect.progress import console
from faceaffect.recipe import Recipe
from faceaffect.runs.label_tables import label_tables, unused_codes
from faceaffect.runs.train import build
from faceaffect.runs.uses import doubts, faces_used


def check(recipe: Recipe) -> None:
    """Build data, splits and model of a recipe, send one batch through them and say what was found.

    Raises:
        FaceAffectError: the first thing that is wrong.
    """
    data, model = build(recipe)
    data.setup("fit")
    console.print(split_table(data))
    for table in label_tables(data):
        console.print(table)
    unused = unused_codes(data.dataset.labels, data.schema.expressions)
    if unused:
        console.print(f"codes of no class here: {', '.join(unused)}", markup=False)
    console.print(faces_used(data), markup=False)
    for reason, count in data.dataset.left_out.items():
        console.print(f"left out: {count} ({reason})", markup=False)
    for old, new in data.dataset.notes.get("expressions renamed", {}).items():
        console.print(f"'{old}' is called {new}", markup=False)
    doubtful = doubts(data)
    for line in doubtful:
        console.print(f"warning: {line}", markup=False)
    if not data.dataset.crop:
        seen = data.look(100)
        console.print(f"faces found in {seen.faces} of {seen.pictures} pictures looked at")
        if seen.words():
            console.print(seen.words(), markup=False)
    side = "val" if len(data.split.val) else "test"
    batch = next(iter(data.val_dataloader() if side == "val" else data.test_dataloader()))
    shape = tuple(batch["video" if "video" in batch else "image"].shape)
    console.print(f"first {side} batch: {shape}, unreadable: {len(batch.get('skipped', []))}")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    console.print(f"model {recipe['model']['name']}: {trained:,} of {total:,} parameters trained")
    if isinstance(model, AffectModule):
        model.prepare(data.statistics())
        model.eval()
        answers = model.answer(batch)[1]
        shapes = {task: tuple(v.shape) for task, v in answers.items() if task != "text"}
        console.print(f"answers: {shapes}")
    console.print(f"good, with {len(doubtful)} warnings" if doubtful else "all good")


def split_table(data: FaceDataModule) -> Table:
    """Return a table of the samples, people and label counts on each side of the split."""
    info = data.split.info
    table = Table(
        "side", "samples", "people", title=f"protocol: {info['name']}", title_justify="left"
    )
    for side in ("train", "val", "test"):
        indices = getattr(data.split, side)
        people = len(set(data.dataset.samples.subject[indices].tolist()))
        table.add_row(side, f"{len(indices):,}", f"{people:,}")
    return table
