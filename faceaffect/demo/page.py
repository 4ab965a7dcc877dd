"""The page: built with gradio, served on this machine alone unless told otherwise."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faceaffect.data.image import resize
from faceaffect.demo.look import (
    answers_about,
    bars,
    batch_of,
    crops_for,
    differences,
    find_face,
    heat_map,
    words_about,
)
from faceaffect.errors import FaceAffectError, RecipeError, harmless, needs_extra
from faceaffect.evaluation.explain import answer_names
from faceaffect.prediction.predictor import Predictor

SUREST = "what each model sees"

_SHOWN = 256  # pixels of a heat map's side

_CSS = """
.bars h4 {margin: 0.6em 0 0.2em}
.bars .row {display: grid; grid-template-columns: 6em 1fr 3em; gap: 0.5em; align-items: center;
  font-size: 0.9em; line-height: 1.5}
.bars .row span:last-child {text-align: right; font-variant-numeric: tabular-nums}
.bars .track {position: relative; height: 0.75em; background: #8883; border-radius: 3px}
.bars .fill {position: absolute; top: 0; bottom: 0; background: #56b4e9; border-radius: 3px}
.bars .fill.strong {background: #e69f00}
"""


def import_gradio() -> Any:
    """Return gradio, which then tells nobody that it is used.

    Raises:
        RecipeError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise RecipeError(needs_extra("the page", "gradio", "demo")) from None
    return gradio


def check_port(host: str, port: int) -> None:
    """See that a port can be served on.

    Raises:
        RecipeError: somebody else does, or the address is none of this machine.
    """
    if not 0 < port < 65536:
        raise RecipeError(f"--port {port}: a port is a number from 1 to 65535")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        reason = "is in use" if error.errno in (48, 98, 10048) else str(error.strerror or error)
        raise RecipeError(f"--port {port} on {host}: {reason}; name another by --port") from None


def build_page(predictors: dict[str, Predictor]) -> Any:
    """Return the page, a ``gradio.Blocks``.

    Args:
        predictors: what each model is called, and the model.
    """
    gr = import_gradio()
    names = dict.fromkeys(n for p in predictors.values() for n in answer_names(p.schema))
    with gr.Blocks(title="faceaffect", analytics_enabled=False) as page:
        gr.Markdown("# faceaffect\n" + "\n\n".join(map(harmless, differences(predictors))))
        with gr.Row():
            with gr.Column(min_width=280):
                with gr.Tab("Picture or camera"):
                    image = gr.Image(
                        sources=["upload", "webcam", "clipboard"],
                        label="Picture", height=320, buttons=[],
                    )  # fmt: skip
                    image.preprocess = _path_of  # our reader says what is wrong with a file
                with gr.Tab("Clip"):
                    clip = gr.Video(sources=["upload", "webcam"], label="Clip", height=320)
                target = gr.Dropdown([SUREST, *names], value=SUREST, label="Heat map of")
            outputs: list[Any] = []
            for name, predictor in predictors.items():
                with gr.Column(min_width=260):
                    gr.Markdown(f"### {harmless(name)}")
                    outputs += [
                        gr.Image(
                            label="Heat map", height=260, interactive=False, buttons=["fullscreen"]
                        ),
                        gr.HTML(),
                        gr.Textbox(label="In words", visible=predictor.speaks, lines=4),
                    ]

        def look(path: str | None, wanted: str) -> Iterator[list[Any]]:
            if not path:
                yield [None, "", ""] * len(predictors)
                return
            try:
                yield from answer(predictors, Path(path), None if wanted == SUREST else wanted)
            except FaceAffectError as error:
                said = str(error).replace(path, Path(path).name)
                raise gr.Error(said, duration=None, print_exception=False) from None

        image.change(look, [image, target], outputs, api_name="picture")
        clip.change(look, [clip, target], outputs, api_name="clip")
        target.change(
            lambda picture, film, wanted: (yield from look(picture or film, wanted)),
            [image, clip, target], outputs, api_name="heat",
        )  # fmt: skip
    return page


def _path_of(payload: Any) -> str | None:
    return None if payload is None else str(payload.path)


def answer(predictors: dict[str, Predictor], path: Path, wanted: str | None) -> Iterator[list[Any]]:
    """Yield what stands in the columns, three values a model: first the answers, then the words."""
    shown: list[Any] = [None, "", ""] * len(predictors)
    found = find_face(next(iter(predictors.values())), path)
    batches = []
    for place, predictor in enumerate(predictors.values()):
        crops = crops_for(predictor, found)
        batches.append(batch_of(predictor, crops))
        answers = answers_about(predictor, batches[-1])
        picture, caption = heat_map(predictor, crops[len(crops) // 2], answers, wanted)
        shown[3 * place] = resize(picture, _SHOWN)
        shown[3 * place + 1] = f"<small>{caption}</small>" + bars(answers, predictor.schema)
        yield shown
    for place, predictor in enumerate(predictors.values()):
        if predictor.speaks:
            for text in words_about(predictor, batches[place]):
                shown[3 * place + 2] = text
                yield shown


def serve(predictors: dict[str, Predictor], host: str, port: int, *, wait: bool = True) -> Any:
    """Serve the page until Ctrl-C.

    Args:
        predictors: what each model is called, and the model.
        host: the address to serve on; 127.0.0.1 is this machine alone.
        port: of it.
        wait: return at once if not, with the page, which ``close()`` ends.
    """
    gr = import_gradio()
    check_port(host, port)
    page = build_page(predictors)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    page.launch(
        server_name=host, server_port=port, share=False, quiet=True, theme=theme, css=_CSS,
        prevent_thread_lock=True, ssr_mode=False, footer_links=[], mcp_server=False,
        enable_monitoring=False, max_file_size="200mb",
    )  # fmt: skip
    if wait:
        page.block_thread()
    return page
