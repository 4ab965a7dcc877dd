import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def opencvs(requirements: list[str]) -> set[str]:
    """Return the builds of OpenCV that requirements bring along, as what is installed tells."""
    todo, seen = [Requirement(text) for text in requirements], set()
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if (name, *sorted(one.extras)) in seen or name == "faceaffect":
            continue
        seen.add((name, *sorted(one.extras)))
        try:
            needed = map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            continue
        cases = [{"extra": extra} for extra in ("", *one.extras)]
        todo += [r for r in needed if r.marker is None or any(map(r.marker.evaluate, cases))]
    return {name for name, *_ in seen if name.startswith("opencv")}


def test_no_opencv_with_windows_is_installed_unasked() -> None:
    """It would overwrite the headless one, and without libGL no cv2 could be imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert opencvs(project["dependencies"]) == {"opencv-python-headless"}
    for extra, requirements in project["optional-dependencies"].items():
        if extra != "align":
            assert opencvs(requirements) <= {"opencv-python-headless"}, extra


def unbounded(package: str) -> set[str]:
    """Return what a package needs in any version from some on."""
    needed = map(Requirement, metadata.requires(package) or [])
    return {
        canonicalize_name(r.name)
        for r in needed
        if (r.marker is None or r.marker.evaluate({"extra": ""}))
        and not any(s.operator in ("<", "<=", "==", "~=") for s in r.specifier)
    }


def test_no_release_of_what_an_archived_package_needs_can_break_an_install() -> None:
    """What is built for it alone is held; numpy, scipy and the like are held by others too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {canonicalize_name(r.name): r for r in map(Requirement, project["dependencies"])}
    held = {n for n, r in ours.items() if any(s.operator == "<" for s in r.specifier)}
    assert "albumentations" in held
    kept_alive = {"numpy", "scipy", "pyyaml", "pydantic", "typing-extensions"}
    needed = unbounded("albumentations") | unbounded("albucore")
    assert {"stringzilla", "simsimd"} <= needed
    assert needed - kept_alive - {"opencv-python-headless"} <= held


def test_albumentations_is_confined_to_one_file() -> None:
    users = [f.name for f in (ROOT / "faceaffect").rglob("*.py")
             if "import albumentations" in f.read_text(encoding="utf-8")]  # fmt: skip
    assert users == ["transforms.py"]


def test_cv2_can_be_imported_here() -> None:
    done = subprocess.run([sys.executable, "-c", "import cv2"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


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
