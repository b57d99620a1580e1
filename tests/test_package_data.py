"""What is in the wheel besides code: every file of the package that is no code is declared, and so is the licence."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "infoprune"


@pytest.fixture(scope="module")
def declared():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib comes with Python 3.11")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_file_that_is_no_code_is_in_the_wheel(declared):
    patterns = declared["tool"]["setuptools"]["package-data"]["infoprune"]
    listed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    there = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == listed
    assert PACKAGE / "py.typed" in listed


def test_the_licence_is_in_the_wheel(declared):
    files = declared["project"]["license-files"]
    assert all((ROOT / name).is_file() for name in files)
    assert "Apache License" in (ROOT / files[0]).read_text(encoding="utf-8")
