"""The public names: complete, typed, and imported on first use only."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import infoprune

SOURCE = Path(infoprune.__file__).parent
NOT_FOR_ENTROPY = (
    *("lightning", "lightning_fabric", "sklearn", "scipy", "torch_pruning", "rich", "PIL", "typer", "pydantic"),
    *("safetensors", "torchvision", "timm", "matplotlib", "plotly", "jinja2"),
)


def loaded_by(statement):
    """Return the modules that a statement imports in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.split())


def imports_for_type_checkers():
    """Return, by public name, the module that the block for type checkers imports it from."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(one for one in tree.body if isinstance(one, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {name.name: statement.module for statement in block.body for name in statement.names}


def test_the_package_alone_imports_nothing():
    loaded = loaded_by("import infoprune")
    assert {name for name in loaded if name.startswith("infoprune")} == {"infoprune", "infoprune.version"}
    assert not {"torch", "numpy", *NOT_FOR_ENTROPY} & loaded


def test_the_entropy_package_imports_torch_and_nothing_else():
    loaded = loaded_by("import infoprune.entropy")
    assert "torch" in loaded
    assert not set(NOT_FOR_ENTROPY) & loaded
    own = {name for name in loaded if name.startswith("infoprune.")}
    assert {name.split(".")[1] for name in own} == {"entropy", "errors", "version"}


def test_every_public_name_is_there():
    for name in infoprune.__all__:
        assert getattr(infoprune, name) is not None
    assert set(infoprune.__all__) <= set(dir(infoprune))
    with pytest.raises(AttributeError, match="has no attribute 'prunes'"):
        _ = infoprune.prunes


def test_type_checkers_are_shown_the_same_names():
    assert {**imports_for_type_checkers(), "__version__": "infoprune.version"} == {
        **infoprune._MODULE_OF, "__version__": "infoprune.version"}  # fmt: skip
    assert set(infoprune.__all__) == {*infoprune._MODULE_OF, "__version__"}


def test_functions_are_not_replaced_by_modules_of_the_same_name():
    for module in ("plan", "repair"):
        statement = f"import infoprune.{module}, infoprune\nassert callable(infoprune.{module})"
        assert f"infoprune.{module}" in loaded_by(statement)


@pytest.mark.parametrize("room", infoprune._ROOMS)
def test_rooms_are_attributes(room):
    assert isinstance(getattr(infoprune, room), ModuleType)
