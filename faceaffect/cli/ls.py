"""The command ``ls``."""

import argparse
import inspect
from pathlib import Path

from faceaffect.cli.arguments import Commands, add_command
from faceaffect.errors import RecipeError, unknown
from faceaffect.registry import GIVEN_TO_LOGGERS, TABLES, check_name, get


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "list models, data, recipes, backbones, ... or show one of them"
    parser = add_command(commands, "ls", run, text)
    parser.add_argument("what", nargs="?", metavar="models|data|recipes|probes|backbones|NAME")


def run(args: argparse.Namespace) -> int:
    """Print lists of names, or what is known of one name."""
    from faceaffect.recipe import find_recipe, list_recipes, recipe_folder

    what = args.what
    lists = {**{table: sorted(names) for table, names in TABLES.items()}, "recipes": list_recipes()}
    probes = {path.stem: path for path in sorted((recipe_folder() / "probes").glob("*.yaml"))}
    lists["probes"] = list(probes)
    if what is None:
        for title, names in lists.items():
            print(f"{title}: {', '.join(names)}")
        print("backbones: every timm model; 'faceaffect ls backbones' lists them")
    elif what in lists:
        for name in lists[what]:
            file = find_recipe(name) if what == "recipes" else probes.get(name)
            first = _first_comment(file) if file else ""
            print(f"{name}{f'  {first}' if first else ''}")
    elif what == "backbones":
        from faceaffect.networks.backbones import list_backbones

        print("\n".join(list_backbones()))
    elif tables := [table for table in TABLES if what in TABLES[table]]:
        for table in tables:
            print(_describe(table, what))
    elif what in lists["recipes"] or what in probes:
        file = probes.get(what) or find_recipe(what)
        print(file.read_text(encoding="utf-8"), end="")
    else:
        known = {*lists, "backbones", *(name for names in lists.values() for name in names)}
        raise RecipeError(unknown("ls", what, known))
    return 0


def _first_comment(path: Path) -> str:
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return (
        line.removeprefix("#").partition("faceaffect ")[0].strip() if line.startswith("#") else ""
    )


def _describe(table: str, name: str) -> str:
    """Return signature and docstring of a registered component."""
    from faceaffect.components import named_parameters

    check_name(table, name)
    target = get(table, name)
    lines = [
        f"{name} ({table.removesuffix('s')})",
        inspect.getdoc(target) or "",
        "",
        "keys and defaults:",
    ]
    given = {"models": {"schema"}, "loggers": set(GIVEN_TO_LOGGERS)}.get(table, set())
    for parameter in named_parameters(target).values():
        if parameter.name in given:
            continue
        value = "needed" if parameter.default is parameter.empty else repr(parameter.default)
        lines.append(f"  {parameter.name}: {value}")
    return "\n".join(lines)
