import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_the_tree_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "faceaffect", "recipes"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    tree = {
        name.replace("recipes/", "faceaffect/recipes/", 1) if name.startswith("recipes/") else name
        for name in listed
        if not name.endswith("README.md")
    }
    assert shipped == tree


def test_import_is_light_and_silent() -> None:
    code = "import sys, faceaffect; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_public_name_can_be_had() -> None:
    import faceaffect

    for name in faceaffect.__all__:
        assert getattr(faceaffect, name).__doc__
