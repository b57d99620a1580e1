"""The code blocks of the guides run as they stand, in the order of each page."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from infoprune import cli, criteria, pipeline, zoo  # noqa: F401 - pipeline registers the criterion reconstruction
from infoprune.cutoff.rules import curve
from infoprune.depth import all_block_criteria

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```(python|bash)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDED = {
    "--onnx": "onnxruntime",
    "--report": "plotly",
    "report": "plotly",
    "compare": "plotly",
    "bench": "plotly",
    "--figures": "matplotlib",
}
NAMES = ("start.md", "own-network.md", "small-without-training.md", "report.md", "extend.md", "board.md")
GUIDES = [DOCS / name for name in NAMES]
PAGES = [
    *GUIDES,
    *(page for page in sorted(DOCS.glob("methods/*.md")) if BLOCK.search(page.read_text(encoding="utf-8"))),
]


def blocks(page):
    return [(kind, options.strip(), text) for kind, options, text in BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands(text):
    """Return the arguments of every command of a shell block."""
    return [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, and none of the names that a page registers or imports kept afterwards."""
    monkeypatch.chdir(tmp_path)
    for registry in (criteria.base, curve):
        monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    yield tmp_path
    sys.modules.pop("mine", None)


def call(arguments, monkeypatch):
    assert arguments[0] == "infoprune", f"only infoprune is run: {arguments}"
    for word, package in NEEDED.items():
        if word in arguments:
            pytest.importorskip(package)
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code, f"{shlex.join(arguments)} ended with {left.value.code}"


@pytest.mark.parametrize(("tag", "opening", "closing"), [("span", r"\(", r"\)"), ("div", r"\[", r"\]")])
def test_a_formula_becomes_mathml(tag, opening, closing):
    pytest.importorskip("latex2mathml")
    hook = runpy.run_path(str(DOCS.parent / "tools" / "formulas.py"))["on_page_content"]
    drawn = hook(f'<p>a <{tag} class="arithmatex">{opening}x &lt; y^2{closing}</{tag}> b</p>')
    assert re.match(f"<p>a <{tag}( style=[^>]*)?><math", drawn)
    assert drawn.endswith(f"</math></{tag}> b</p>")
    assert "<msup>" in drawn
    assert "&#x0003C;" in drawn


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_blocks_of_a_page_run(page, folder, monkeypatch):
    names = {"__name__": "page"}
    for kind, options, text in blocks(page):
        if kind == "bash":
            for arguments in commands(text):
                call(arguments, monkeypatch)
        elif options.startswith("file="):
            (folder / options.removeprefix("file=")).write_text(text, encoding="utf-8")
        else:
            exec(compile(text, str(page), "exec"), names)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_guides_have_blocks_to_run(page):
    assert {kind for kind, _, _ in blocks(page)} == {"bash", "python"}


def test_the_start_leaves_what_it_promises(folder, monkeypatch):
    """Names of files in the guide are those that its commands write."""
    text = (DOCS / "start.md").read_text(encoding="utf-8")
    written = set(re.findall(r"--(?:out|report|onnx|program|json) (\S+)", text))
    assert {"digits.safetensors", "small.safetensors", "report.html", "small.onnx", "runs/hrel/export.json"} <= written


def test_criteria_of_the_pages_exist():
    known = {info.name for info in (*criteria.all_criteria(), *all_block_criteria())}
    for page in DOCS.rglob("*.md"):
        named = re.findall(r"--criterion ([a-z0-9-]+)(?![\w:.-])", page.read_text(encoding="utf-8"))
        assert set(named) <= known, page


def test_networks_of_the_pages_exist():
    for page in DOCS.rglob("*.md"):
        named = re.findall(r"--model ([a-z0-9_]+)(?![\w:.])", page.read_text(encoding="utf-8"))
        assert set(named) <= set(zoo.names()), page


@pytest.mark.parametrize("page", [*sorted(DOCS.rglob("*.md")), DOCS.parent / "README.md"], ids=lambda page: page.name)
def test_no_line_of_a_page_is_too_long_to_read(page):
    """Rows of tables cannot be broken; a line of code in a block may not be."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    assert not [number for number, line in lines if len(line) > 120 and not line.startswith("|")]


@pytest.mark.parametrize("page", sorted(DOCS.glob("guides/*.md")), ids=lambda page: page.name)
def test_a_worked_guide_shows_the_code_of_its_example(page):
    """The code is included from a script that tests/examples runs, so that page and script are one text."""
    included = re.findall(r'^--8<-- "(examples/\w+\.py):(\w+)"$', page.read_text(encoding="utf-8"), re.MULTILINE)
    assert included
    for script, part in included:
        text = (DOCS.parent / script).read_text(encoding="utf-8")
        assert f"# --8<-- [start:{part}]" in text
        assert f"# --8<-- [end:{part}]" in text
