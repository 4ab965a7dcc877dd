"""Pictures and tables of the graphs that a model makes, beside the data's own co-occurrence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.data.base import FaceDataModule
from faceaffect.data.batch import FaceBatch, frames, move_labels
from faceaffect.errors import FaceAffectError
from faceaffect.files import replacing
from faceaffect.module import AffectModule
from faceaffect.registry import names_with
from faceaffect.scores.vocabulary import AU_NAMES

Matrix = NDArray[np.float64]
_WIDEST = 5.0
_FAINTEST = 0.02
_EDGES_PER_NODE = 2
"""What is drawn of a dense graph: its strongest edges, none below the faintest."""


@dataclass
class Graphs:
    """The graphs of many faces.

    Attributes:
        nodes: names, N.
        mean: (S, N, N), the average over the faces for each stage; entry (i, j) is the weight with
            which node i receives from node j.
        sample: (S, N, N), those of one face.
        sample_id: the name of that face.
        cooccurrence: (N, N), see :func:`cooccurrence`; None where the nodes are no AUs.
        faces: how many.
    """

    nodes: tuple[str, ...]
    mean: Matrix
    sample: Matrix
    sample_id: str
    cooccurrence: Matrix | None
    faces: int


def graph_report(
    model: AffectModule, data: FaceDataModule, folder: Path, *, sample: str | None = None
) -> list[Path]:
    """Draw the graphs of a model on the test part of the data and write them as tables.

    ``mean`` (all faces) and ``sample`` (one face) come as PNG and SVG, each beside the AUs'
    co-occurrence in the labels of all faces; every matrix as CSV, rows receive and columns send.

    Args:
        model: a model with ``graphs``, on its device.
        data: its labels must have the model's names.
        folder: made if it is not there.
        sample: the id of the face to draw; None: the first.

    Returns:
        The files written.

    Raises:
        FaceAffectError: the model makes no graphs, or there is no such face.
    """
    found = collect_graphs(model, data, sample=sample)
    folder.mkdir(parents=True, exist_ok=True)
    stages = [f"stage {s + 1}" for s in range(len(found.mean))]
    mean = dict(zip(stages, found.mean, strict=True))
    one = dict(zip(stages, found.sample, strict=True))
    labels = {}
    if found.cooccurrence is not None:
        labels["co-occurrence of the labels"] = found.cooccurrence * (1 - np.eye(len(found.nodes)))
    files = draw_graphs(
        mean | labels, found.nodes, folder / "mean", f"mean of {found.faces} faces"
    ) + draw_graphs(one | labels, found.nodes, folder / "sample", found.sample_id)
    tables = {f"mean_{stage.replace(' ', '')}": matrix for stage, matrix in mean.items()}
    tables |= {f"sample_{stage.replace(' ', '')}": matrix for stage, matrix in one.items()}
    if found.cooccurrence is not None:
        tables["cooccurrence"] = found.cooccurrence
    for name, matrix in tables.items():
        files.append(folder / f"{name}.csv")
        table = pd.DataFrame(matrix, index=list(found.nodes), columns=list(found.nodes))
        with replacing(files[-1]) as part:
            table.to_csv(part, float_format="%.6f")
    return files


def collect_graphs(
    model: AffectModule, data: FaceDataModule, *, sample: str | None = None
) -> Graphs:
    """Return the graphs of the test part, averaged and of one face.

    Every frame of a clip counts as a face.

    Args:
        model: a model with ``graphs``, on its device.
        data: its labels must have the model's names.
        sample: the id of the face kept by itself; None: the first.

    Raises:
        FaceAffectError: the model makes no graphs, or there is no such face.
    """
    make_graphs = getattr(model, "graphs", None)
    if make_graphs is None:
        others = ", ".join(names_with("models", "graphs"))
        raise FaceAffectError(f"{type(model).__name__} makes no graphs; models that do: {others}")
    model.eval()
    total: torch.Tensor = torch.zeros(())
    labels: list[torch.Tensor] = []
    kept: tuple[str, torch.Tensor] | None = None
    count = 0
    for batch in track(data.test_dataloader(), "Graphs", transient=True):
        if not batch["id"]:
            continue
        faces = _faces(batch, model, data)
        with torch.no_grad():
            graphs = make_graphs(faces).double().cpu()
        total, count = total + graphs.sum(0), count + len(graphs)
        wanted = faces["id"][0] if sample is None else sample
        if kept is None and wanted in faces["id"]:
            kept = wanted, graphs[faces["id"].index(wanted)]
        if "au" in faces:
            labels.append(faces["au"].cpu())
    if kept is None:
        raise FaceAffectError(f"no face '{sample}' among the {count} of the test part")
    return Graphs(
        nodes=tuple(model.nodes),  # type: ignore[arg-type]
        mean=(total / count).numpy(),
        sample=kept[1].numpy(),
        sample_id=kept[0],
        cooccurrence=cooccurrence(torch.cat(labels).numpy()) if labels else None,
        faces=count,
    )


def cooccurrence(au: NDArray[np.floating[Any]]) -> Matrix:
    """Return how much more often two AUs come together than by chance: Pearson's phi.

    Args:
        au: (M, A) in {0, 1}, NaN unknown.

    Returns:
        (A, A) in [-1, 1] over the faces where both are known; 0 for an AU that never changes.
    """
    return pd.DataFrame(au).corr().fillna(0.0).to_numpy(dtype=np.float64)


def draw_graphs(
    matrices: Mapping[str, Matrix], nodes: Sequence[str], file: Path, title: str
) -> list[Path]:
    """Draw graphs side by side; the file's suffix is replaced by ``.png`` and ``.svg``.

    An arrow from j to i is as wide as entry (i, j), up to the widest of its graph, which the title
    tells; the strongest edges are drawn, about two per node. A symmetric matrix gets lines without
    heads, one for a pair. A node's colour is its own weight, entry (i, i).

    Args:
        matrices: title to (N, N); negative entries are not drawn.
        nodes: N names; those of AUs get their FACS action beside them.
        file: where to, without suffix.
        title: above the whole.

    Returns:
        The two files.
    """
    with plt.rc_context({"text.parse_math": False}):  # a name may hold any sign
        figure, axes = plt.subplots(
            1,
            len(matrices),
            figsize=(4.6 * len(matrices), 4.6),
            squeeze=False,
            layout="constrained",
        )
        for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
            widest = _draw(axis, np.asarray(matrix), nodes)
            axis.set_title(f"{name}\nwidest edge {widest:.2f}", fontsize=10)
        figure.suptitle(title)
        scale = ScalarMappable(Normalize(0, 1), cmap="Blues")
        figure.colorbar(scale, ax=axes[0][-1], shrink=0.6, label="weight of the node itself")
        files = [file.with_name(f"{file.name}.{kind}") for kind in ("png", "svg")]
        for path in files:
            with replacing(path) as part:
                figure.savefig(part, dpi=120, format=path.suffix[1:])
        plt.close(figure)
    return files


def _draw(axis: Axes, matrix: Matrix, nodes: Sequence[str]) -> float:
    """Draw one graph and return its greatest edge."""
    count = len(nodes)
    # Clockwise from the top, in the order of the names.
    angles = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    places = {i: (float(np.cos(a)), float(np.sin(a))) for i, a in enumerate(angles)}
    between = matrix * (1 - np.eye(count))
    one_way = not np.allclose(matrix, matrix.T)
    if not one_way:
        between = np.tril(between)
    widest = max(float(between.max()), 1e-12)
    strongest = np.sort(between, axis=None)[::-1][: _EDGES_PER_NODE * count]
    least = max(float(strongest[-1]), _FAINTEST)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(count))
    for i, j in zip(*np.nonzero(between >= least), strict=True):
        graph.add_edge(int(j), int(i), share=float(between[i, j]) / widest)
    shares = [share for _, _, share in graph.edges(data="share")]
    nx.draw_networkx_edges(
        graph,
        places,
        ax=axis,
        width=[_WIDEST * share for share in shares],
        # Faint edges below strong ones only by their transparency: drawing order is the library's.
        alpha=[0.15 + 0.75 * share for share in shares],
        edge_color="tab:orange",
        arrowstyle="-|>" if one_way else "-",
        arrowsize=10,
        connectionstyle="arc3,rad=0.12" if one_way else "arc3",
        node_size=420,
    )
    nx.draw_networkx_nodes(
        graph,
        places,
        ax=axis,
        node_size=420,
        node_color=np.diag(matrix).tolist(),
        cmap="Blues",
        vmin=0,
        vmax=1,
        edgecolors="0.3",
    )
    for i, name in enumerate(nodes):
        x, y = places[i]
        dark = matrix[i, i] > 0.6
        axis.text(x, y, name.removeprefix("AU"), ha="center", va="center", fontsize=8,
                  color="white" if dark else "black")  # fmt: skip
        side = "center" if abs(x) < 0.1 else "left" if x > 0 else "right"
        axis.text(1.17 * x, 1.28 * y, _action(name), ha=side, va="center", fontsize=7, color="0.25")
    axis.set_xlim(-1.75, 1.75)
    axis.set_ylim(-1.45, 1.45)
    axis.set_aspect("equal")
    axis.set_axis_off()
    return widest


def _action(name: str) -> str:
    """Return ``AU12`` with its FACS action on a second line; any other name as it is."""
    number = name.removeprefix("AU")
    words = AU_NAMES.get(int(number), ()) if name != number and number.isdigit() else ()
    return f"{name}\n{words[0]}" if words else name


def _faces(batch: FaceBatch, model: AffectModule, data: FaceDataModule) -> FaceBatch:
    """Return a batch of images on the model's device, labels in the order of its schema."""
    if "video" in batch:
        batch, _ = frames(batch)
    batch = move_labels(batch, data.schema, model.schema)
    batch["image"] = batch["image"].to(model.device)
    return batch
