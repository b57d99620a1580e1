"""Who may import whom. ``docs/architecture.md`` shows the same picture; whoever changes one changes the other."""

import ast
import re
from pathlib import Path

import pytest

import infoprune

SOURCE = Path(infoprune.__file__).parent
DOCS = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"

# From the ground up: a room may import those that it names, which stand above it in this list. The other files at the
# top of the package (errors, plan, files, ...) and ``declarations`` are the ground: they import no room of the list,
# and every room may import them.
PICTURE = {
    "entropy": "",
    "runs": "",
    "data": "",
    "network": "data runs",
    "zoo": "data network",
    "hashing": "data network",
    "regression": "network runs",
    "criteria": "data entropy hashing network regression runs",
    "cutoff": "criteria entropy network",
    "measure": "criteria data entropy network runs",
    "depth": "criteria data entropy measure network",
    "training": "data measure network runs",
    "options": "cutoff network",
    "repair": "data measure network options regression runs",
    "selection": "criteria cutoff data measure network options regression repair runs",
    "search": "criteria cutoff data measure network options selection",
    "iterative": "criteria cutoff data measure network options repair runs selection training",
    "callbacks": "criteria data iterative measure network repair runs",
    "storage": "data measure network zoo",
    "automatic": "criteria cutoff data measure network options regression repair runs selection",
    "pipeline": "automatic criteria cutoff data measure network options repair runs selection",
    "board": "criteria cutoff data measure network options repair selection",
    "report": "automatic board criteria data iterative measure network pipeline runs",
    "experiment": "automatic board criteria cutoff data depth iterative measure network options pipeline repair report "
    "runs selection storage training zoo",
    "cli": "automatic board criteria cutoff data depth experiment iterative measure network options repair report runs "
    "selection storage training zoo",
    "__init__": "automatic board criteria cutoff data iterative measure network options pipeline repair runs selection "
    "storage training",
    "__main__": "cli",
}
# Arrows that are to go; each is checked to be still there.
# The options ask for the names of the repairs when a value is checked, and the repairs are given their options.
EXCEPTIONS = {("options.py", "repair")}
MOST_FILES_AT_THE_TOP = 12


def imports(path):
    """Return the modules of the package that a file imports, as dotted names without the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "infoprune":
            found |= {f"infoprune.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found.add(node.module)
    return {name.removeprefix("infoprune.") for name in found if name.startswith("infoprune.")}


def arrows():
    """Return every import of another room, as (file, room of the file, room that it imports)."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE)
        room = file.parts[0].removesuffix(".py")
        found += [(file.as_posix(), room, name.split(".")[0]) for name in sorted(imports(path))]
    return [one for one in found if one[1] != one[2]]


def is_ground(room):
    return room == "declarations" or (room not in PICTURE and (SOURCE / f"{room}.py").is_file())


def test_every_import_is_in_the_picture():
    wrong = [
        f"{file} imports {to}"
        for file, room, to in arrows()
        if not is_ground(to) and (file, to) not in EXCEPTIONS and to not in PICTURE.get(room, "").split()
    ]
    assert not wrong, "; ".join(wrong)


def test_nothing_in_the_picture_points_upwards():
    below = []
    for room, may in PICTURE.items():
        assert set(may.split()) <= set(below), f"'{room}' may import a room that does not stand below it"
        below.append(room)


def test_the_ground_imports_no_room_and_has_no_circles():
    waiting = {room: set() for _, room, _ in arrows() if is_ground(room)}
    for file, room, to in arrows():
        if room in waiting:
            assert is_ground(to), f"{file} lies on the ground and imports {to}"
            waiting[room].add(to)
    while waiting:
        free = {room for room, needs in waiting.items() if not needs & waiting.keys()}
        assert free, f"these import one another: {sorted(waiting)}"
        waiting = {room: needs for room, needs in waiting.items() if room not in free}


def test_every_exception_is_still_needed():
    assert {(file, to) for file, _, to in arrows()} >= EXCEPTIONS


def test_the_picture_is_of_the_rooms_that_are_there():
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert rooms == {"declarations", *(room for room in PICTURE if (SOURCE / room).is_dir())}
    assert all(is_ground(room) or room in PICTURE for _, room, _ in arrows())


def test_the_ground_floor_is_small_and_every_room_says_what_it_is():
    assert len(list(SOURCE.glob("*.py"))) <= MOST_FILES_AT_THE_TOP
    for path in SOURCE.glob("*/__init__.py"):
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
        assert first, f"{path.parent.name} has no docstring"
        assert len(first[0]) > 20, f"{path.parent.name} does not say what it is"


@pytest.mark.parametrize("room", [room for room in PICTURE if not room.startswith("__")])
def test_the_docs_show_the_picture(room):
    row = re.search(rf"^\| `{room}(?:\.py|/)` \|.*\| ([^|]*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert row, f"docs/architecture.md has no row for '{room}'"
    assert set(re.findall(r"\w+", row[1])) - {"nothing"} == set(PICTURE[room].split())
