import subprocess
import sys
from pathlib import Path

import pytest

from faceaffect.cli import main

HEAVY = ("torch", "numpy", "lightning", "timm", "transformers", "pandas")


def imported_by(*argv: str) -> tuple[int, str, set[str]]:
    """Run the command line in a fresh process and return code, standard error and heavy imports."""
    code = (
        "import sys\nfrom faceaffect.cli import main\n"
        "try: code = main(sys.argv[1:])\nexcept SystemExit as e: code = e.code\n"
        f"print('HEAVY', *[m for m in {HEAVY} if m in sys.modules])\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False
    )
    heavy = done.stdout.splitlines()[-1].split()[1:]
    return done.returncode, done.stderr, set(heavy)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--help"], 0, ""),
        (["ls"], 0, ""),
        (["train", "facial_expressions_cnn", "trainr.x=1"], 2, "unknown section 'trainr'"),
        (
            ["train", "facial_expressions_cnn", "model.name=os.system"],
            2,
            "unknown name 'os.system'",
        ),
        (["train", "facial_expressions_cnn", "data.name=cvs"], 2, "did you mean 'csv'"),
        (["train", "facial_expressions_cn"], 2, "did you mean 'facial_expressions_cnn'"),
        (["train", "facial_expressions_cnn", "--resume", "seed=x"], 2, "seed: 'x' is no int"),
        (["compare", "mini_probe", "mini_sack"], 2, "did you mean 'mini_sacl'"),
        (["compare", "mini_probe", "--seeds", "2", "trainr.x=1"], 2, "unknown section 'trainr'"),
        (["test", "nowhere"], 2, "no run folder or checkpoint at nowhere"),
    ],
)
def test_light_answers_come_without_heavy_imports(argv: list[str], code: int, message: str) -> None:
    got, err, heavy = imported_by(*argv)
    assert (got, heavy) == (code, set())
    assert message in err
    assert "Traceback" not in err


def test_ls_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "models"]) == 0
    assert "timm_classifier" in capsys.readouterr().out
    assert main(["ls", "timm_classifier"]) == 0
    assert "backbone: 'resnet18'" in capsys.readouterr().out
    assert main(["ls", "recipes"]) == 0
    assert "facial_expressions_cnn  Six expressions" in capsys.readouterr().out
    assert main(["ls", "facial_expressions_cnn"]) == 0
    assert "max_epochs: 24" in capsys.readouterr().out
    assert main(["ls", "timm_clasifier"]) == 2
    assert "did you mean 'timm_classifier'" in capsys.readouterr().err


def test_cp_copies_a_recipe_and_never_overwrites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cp", "facial_expressions_cnn", str(tmp_path)]) == 0
    assert (tmp_path / "facial_expressions_cnn.yaml").exists()
    assert main(["cp", "facial_expressions_cnn", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_an_own_module_is_admitted_by_import_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own_models.py"
    own.write_text(
        "from faceaffect.registry import TABLES\nTABLES['models']['own'] = 'own_models:Own'\n"
    )
    assert main(["train", "facial_expressions_cnn", "model.name=own"]) == 2
    assert "unknown name 'own'" in capsys.readouterr().err
    assert main(["ls", "models", "--import", str(own)]) == 0
    assert "own" in capsys.readouterr().out.split()
    assert main(["ls", "--import", "no_such_module"]) == 2
    assert "no_such_module" in capsys.readouterr().err
