"""The page: what it shows, who may ask, and what goes wrong."""

import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting import specialist, write
from faceaffect import LabelSchema
from faceaffect.cli import main
from faceaffect.demo.look import bars, differences, heat_map
from faceaffect.demo.page import answer, check_port, serve
from faceaffect.errors import DataError, RecipeError
from faceaffect.evaluation.explain import answer_names
from faceaffect.prediction.predictor import Predictor
from faceaffect.schema import LabelSchema as Schema
from finders import Bright
from predicting import Speaking, model, scene, write_film, write_scene


def predictors() -> dict[str, Predictor]:
    made = {"specialist": specialist("timm_classifier"), "speaks": model(kind=Speaking)}
    return {n: Predictor(m, finder=Bright(), device="cpu") for n, m in made.items()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_each_model_answers_side_by_side_in_bars_heat_and_words(tmp_path: Path) -> None:
    both = predictors()
    picture = write_scene(tmp_path / "a.png", (10, 10, 40))
    *_, last = answer(both, picture, None)
    heat, html, words, _, other, said = last
    assert heat.shape == (256, 256, 3)
    row = both["specialist"].predict(picture).iloc[0]
    for name in ("AU12", "happiness", "valence"):
        assert f"<span>{name}</span>" in html
        assert f"<span>{row[name]:.2f}</span>" in html
    assert words == ""
    assert said.endswith("bright")
    assert "no heat map" in other
    assert "speaks for AU4" in list(answer(both, picture, "AU4"))[-1][1]
    assert "has no AU4" in list(answer(both, picture, "AU4"))[-1][4]
    film = write_film(tmp_path / "a.mp4", [scene((10 + n, 10, 40)) for n in range(12)])
    assert "AU12" in list(answer(both, film, None))[-1][1]


def test_what_is_no_picture_or_shows_no_face_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png"):
        list(answer(predictors(), tmp_path / "text.png", None))
    with pytest.raises(DataError, match="no face was found"):
        list(answer(predictors(), write_scene(tmp_path / "empty.png"), None))


def test_a_map_without_anything_is_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, face = predictors()["specialist"], np.full((56, 56, 3), 90, np.uint8)
    answers = dict.fromkeys(answer_names(predictor.schema), 0.2)
    for value, said in ((0.0, "nothing speaks for AU4"), (0.5, "speaks for AU4")):
        cam = [np.full((56, 56), value, np.float32)]
        monkeypatch.setattr("faceaffect.demo.look.grad_cam", lambda *_, cam=cam: cam)
        picture, caption = heat_map(predictor, face, answers, "AU4")
        assert caption == said
        assert np.array_equal(picture, face) == (value == 0)


def test_models_of_different_labels_are_told_in_a_line_and_names_are_text() -> None:
    (line,) = differences(predictors())
    assert line.startswith("specialist and speaks do not answer the same: in the specialist but")
    assert "AU4" in line
    html = bars({"<b>": 0.25}, LabelSchema(expressions=("<b>",)))
    assert "<b>" not in html
    assert "left:0.0%;width:25.0%" in html
    html = bars({"valence": -0.5, "arousal": 0.5}, Schema(valence_arousal=True))
    assert "left:25.0%;width:25.0%" in html
    assert "left:50.0%;width:25.0%" in html


def test_a_port_in_use_and_a_missing_extra_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(write(specialist("timm_classifier"), tmp_path / "best.ckpt"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(RecipeError, match=f"--port {port} on 127.0.0.1: is in use"):
            check_port("127.0.0.1", port)
    with pytest.raises(RecipeError, match="from 1 to 65535"):
        check_port("127.0.0.1", 99999)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", checkpoint]) == 2
    assert "pip install 'faceaffect[demo]'" in capsys.readouterr().err
    assert main(["demo", str(tmp_path / "nowhere")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_a_browser_drops_a_picture_and_sees_two_models(
    tmp_path: Path, size: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio")
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    picture = write_scene(tmp_path / "a.png", (10, 10, 40))
    port = free_port()
    page = serve(predictors(), "127.0.0.1", port, wait=False)
    asked: list[str] = []
    try:
        with api.sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            tab: Any = browser.new_page(viewport={"width": size[0], "height": size[1]})
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(f"http://127.0.0.1:{port}")
            tab.set_input_files("input[type=file] >> nth=0", str(picture))
            tab.wait_for_function("document.querySelectorAll('.bars').length == 2")
            tab.wait_for_function("[...document.querySelectorAll('textarea')]"
                                  ".some(t => t.value.endsWith('bright'))")  # fmt: skip
            assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
            none = tmp_path / "none.png"
            none.write_text("no picture")
            tab.reload()
            tab.set_input_files("input[type=file] >> nth=0", str(none))
            tab.wait_for_selector("text=none.png: not readable as a picture")
            browser.close()
    finally:
        page.close()
    own = (f"http://127.0.0.1:{port}", "data:", "blob:")
    assert all(url.startswith(own) for url in asked)
    assert "gradio.exceptions.Error" not in capfd.readouterr().err
