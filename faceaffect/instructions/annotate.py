"""Instruction data about a recipe's samples: by templates, or by a vision-language model."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from faceaffect.data.base import create_data
from faceaffect.errors import DataError, RecipeError, printable
from faceaffect.instructions.conversations import annotate, plan, refusals_beside
from faceaffect.instructions.endpoint import Endpoint
from faceaffect.instructions.formats import LINES, Format, read_items, write_conversations
from faceaffect.instructions.items import (
    KINDS,
    Item,
    Kind,
    read_jsonl,
    write_items,
    write_jsonl,
)
from faceaffect.progress import console
from faceaffect.recipe import Recipe


def annotate_recipe(
    recipe: Recipe,
    path: Path,
    *,
    endpoint: Endpoint | None = None,
    part: Literal["train", "val"] = "train",
    kinds: Sequence[Kind] = KINDS,
    style: Literal["jsonl"] | Format = "jsonl",
    dry_run: bool = False,
) -> int:
    """Write instruction items about one part of a recipe's data; return how many the file holds.

    Args:
        recipe: its data section and protocol decide which samples are in the part.
        path: the file to write. With an endpoint it is added to, and samples that it has are not
            asked for again.
        endpoint: whom to ask for conversations; None writes templates.
        part: never the test part.
        kinds: which templates.
        style: ours, one item a line, or that of another tool; with an endpoint our lines are kept
            beside it, in ``path`` with the suffix ``.jsonl``, of files of lines ``.items.jsonl``.
        dry_run: with an endpoint: say what would be asked, and ask and write nothing.

    Raises:
        RecipeError: an unknown kind, a file name that does not fit the style, or pictures would
            leave the machine and nobody said that they may.
        DataError: the data is wrong, the endpoint cannot be used, another process writes the file,
            or what the file holds would be lost.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise RecipeError(f"kinds: '{kind}' is not one of {', '.join(KINDS)}")
    lines = _own_lines(path, style)
    if endpoint is not None and lines != path:
        _check_nothing_is_lost(path, _read_if_there(lines))
    data = create_data(**recipe["data"])
    indices = getattr(data.split, part).tolist()
    source = recipe["data"]["name"]
    if endpoint is not None and dry_run:
        for line in plan(data.dataset, indices, endpoint, lines).words(endpoint):
            console.print(line, markup=False)
        return len(_read_if_there(lines))
    if endpoint is None:
        items = list(write_items(data.dataset, indices, kinds=kinds, part=part, source=source))
        counts = Counter(item.kind for item in items)
        console.print(", ".join(f"{kind}: {count}" for kind, count in counts.items()))
        _check_nothing_is_lost(path, items)
    else:
        console.print(f"pictures and labels go to {endpoint.url}", markup=False)
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("asking", total=len(indices))
            result = annotate(
                data.dataset, indices, endpoint, lines, part=part, source=source,
                progress=lambda step: bar.advance(task, step),
            )  # fmt: skip
        console.print(
            f"{result.written} written, {result.present} were there, "
            f"{result.passed_over} refused at an earlier run and passed over"
        )
        console.print(result.spent.words(endpoint), markup=False)
        again = refusals_beside(lines)
        _tell(result.refused, f"refused; {again} keeps them from being asked for again")
        _tell(result.unanswered, "without an answer; the same command asks for them again")
        _tell(result.unreadable, "whose picture cannot be read")
        items = _read_if_there(lines)
    if style == "jsonl":
        return len(items) if endpoint is not None else write_jsonl(path, items)
    return write_conversations(path, items, style)


def _own_lines(path: Path, style: str) -> Path:
    """Return where the lines of an endpoint's answers are kept.

    Raises:
        RecipeError: the name of the file does not fit the style.
    """
    if style == "jsonl":
        return path
    if style in LINES:
        if path.suffix != ".jsonl":
            name = path.with_suffix(".jsonl").name
            raise RecipeError(f"{path}: style {style} is lines of JSON; name it {name}")
        return path.with_suffix(".items.jsonl")
    if path.suffix == ".jsonl":
        raise RecipeError(
            f"{path}: style {style} is one JSON list, not lines, and the lines of an endpoint's "
            f"answers are kept in a .jsonl file beside it; name it {path.with_suffix('.json').name}"
        )
    return path.with_suffix(".jsonl")


def _read_if_there(path: Path) -> list[Item]:
    return read_jsonl(path) if path.exists() else []


def _check_nothing_is_lost(path: Path, items: Sequence[Item]) -> None:
    """See that what a file holds is among the items that will replace it.

    Raises:
        DataError: it holds others, or is no instruction file; it is left as it is.
    """
    kept = {json.dumps(asdict(item)) for item in items}
    if path.exists() and not kept.issuperset(json.dumps(asdict(i)) for i in read_items(path)):
        raise DataError(
            f"{path} is there already and holds items that would be lost; name another file, or "
            "move it away"
        )


def _tell(items: dict[str, str], what: str) -> None:
    """Print how many items something happened to, and the first reasons."""
    if items:
        console.print(f"{len(items)} {what}", markup=False)
        for name, reason in list(items.items())[:5]:
            console.print(f"  {printable(name)}: {printable(reason)}", markup=False)
