"""Every public function and class shows how it is used; pytest runs these examples as doctests."""

import ast
import re
from pathlib import Path

import infoprune
from infoprune.cli.app import COMMANDS
from infoprune.criteria import all_criteria
from infoprune.cutoff import all_rules
from infoprune.training.penalties import all_penalties

SOURCE = Path(infoprune.__file__).parent
# Commands are run by tests/end_to_end and by the guides: a call from Python is not how they are used.
COMMAND_FUNCTIONS = {f"cli/{module}.py:{name}" for module, name in (place.split(":") for place, _ in COMMANDS.values())}
# What takes longer than a second or ends the process.
OTHERS = {
    "cli/app.py:main": "ends the process",
    "experiment/demo.py:run": "trains and prunes five times; tests/end_to_end runs it",
    "runs/watch.py:watched": "watches several processes of one run; tests/processes runs it",
    "experiment/iterate.py:iterate": "trains on a whole data set; tests/end_to_end runs it",
}
MOST_EXCEPTIONS = 4
# A skipped example is none.
SKIPPED = re.compile(r"doctest: *\+SKIP")


def public():
    """Yield the place and the docstring of every public function and class."""
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE).as_posix()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{inside}:{node.name}", ast.get_docstring(node) or ""


def test_every_public_function_and_class_has_an_example():
    missing = {place for place, text in public() if not re.search(r"^Example:\n\s+>>> ", text, re.MULTILINE)}
    assert missing - COMMAND_FUNCTIONS == set(OTHERS)
    assert len(OTHERS) <= MOST_EXCEPTIONS


def test_no_example_is_skipped():
    assert not [place for place, text in public() if SKIPPED.search(text)]


def test_an_example_shows_a_call():
    """Of a function: it is called; of a class: it is made, or a function that makes one is called."""
    silent = [place for place, text in public() if ">>> " in text and "(" not in text.split("Example:")[-1]]
    assert not silent


def docstrings():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                yield ast.get_docstring(node) or ""


EVERY_DOCSTRING = "\n".join(docstrings())


def test_what_is_published_names_its_source_where_it_is_defined():
    """The arXiv number that a criterion, rule or penalty declares is in a docstring too."""
    declared = [(one, one.paper) for one in (*all_criteria(), *all_rules(), *all_penalties()) if one.paper]
    for info, paper in declared:
        numbers = re.findall(r"\d{4}\.\d{5}", paper)
        assert all(number in EVERY_DOCSTRING for number in numbers), f"{info.name}: {paper}"
