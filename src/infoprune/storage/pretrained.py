"""A pruned model of Transformers as a folder that ``from_pretrained`` loads."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from infoprune.declarations.validation import parsed_object, validated
from infoprune.errors import InputError
from infoprune.files import as_one_sentence
from infoprune.network.equivalence import one_line
from infoprune.storage import loader
from infoprune.storage.plain import PlainLayer, changes_of, check_rebuilt, tensors_of

# The name of the changes in the configuration.
_CHANGES = "pruned"


@dataclass(frozen=True)
class _Changes:
    layers: dict[str, tuple[PlainLayer, dict[str, Any]]]
    attributes: dict[str, dict[str, int | list[int]]]
    shapes: dict[str, list[int]]


_CODE = '''"""A {kind} of Transformers with filters removed: the widths are in the configuration."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import {kind}


class Pruned{kind}({kind}):
    """Loaded by ``from_pretrained(folder, trust_remote_code=True)``."""

    def __init__(self, config):
        super().__init__(config)
        resize(self, config.{changes})


{resize}'''


def save_pretrained(whole: nn.Module, small: nn.Module, folder: str | Path) -> None:
    """Write a pruned model of Transformers as a folder that ``from_pretrained`` loads.

    The configuration of such a model has no place for the width of every layer. The folder therefore holds, as other
    models with code of their own do, a short Python file that builds the model of Transformers and gives its layers
    their widths: ``AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)`` reads it, without
    infoprune, and trusts that code. ``load_pretrained`` reads the same folder and runs nothing that lies in it.

    Args:
        whole: The model before pruning, of a class of Transformers.
        small: The pruned one.
        folder: The folder to write, which does not exist yet or is empty. An image processor can be saved to it
            afterwards.

    Raises:
        InputError: The model is not of a class of Transformers, the folder holds something or cannot be written, or
            what is loaded from it is not the pruned model. Nothing is left then.

    Example:
        >>> save_pretrained(nn.Linear(2, 2), nn.Linear(2, 2), "small")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: a Linear is no model of Transformers: use infoprune.save, or \
infoprune.storage.plain.save_plain
    """
    kind = _class_name(whole)
    path = Path(folder).resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"'{folder}' exists already: name a new folder")
    with as_one_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with as_one_sentence(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
        part = Path(beside) / path.name
        _write(whole, small, part, kind)
        _check(small, part, kind)
        if path.exists():
            path.rmdir()
        part.rename(path)


def load_pretrained(folder: str | Path) -> nn.Module:
    """Load a folder of ``save_pretrained``, in eval mode; no code in it is run.

    Raises:
        InputError: The folder is not one of ``save_pretrained``, or names a class that Transformers does not have.

    Example:
        >>> load_pretrained("nowhere")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: 'nowhere' is no folder of save_pretrained: it has no config.json
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InputError(f"'{folder}' is no folder of save_pretrained: it has no config.json")
    import transformers

    values = parsed_object((path / "config.json").read_text(encoding="utf-8"), "its configuration")
    kind = getattr(transformers, str(values.get("base_class")), None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel) or _CHANGES not in values:
        raise InputError(
            f"'{folder}' is no folder of save_pretrained: its configuration names no model that was pruned"
        )
    changes = validated(_Changes, values[_CHANGES], f"'{folder}'")

    class Pruned(kind):  # type: ignore[misc, valid-type]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            loader.resize(self, vars(changes))

    try:
        return _loaded(Pruned, path)
    except Exception as error:  # what the values of a configuration cause is of any kind
        raise InputError(f"'{folder}' cannot be loaded: {one_line(error)}") from error


def _class_name(model: nn.Module) -> str:
    kind = type(model)
    module = sys.modules.get("transformers")
    if module is None or not isinstance(model, module.PreTrainedModel):
        raise InputError(
            f"a {kind.__name__} is no model of Transformers: use infoprune.save, or infoprune.storage.plain.save_plain"
        )
    if getattr(module, kind.__name__, None) is not kind:
        raise InputError(f"{kind.__name__} is a class of your own, which from_pretrained does not know")
    return str(kind.__name__)


def _write(whole: nn.Module, small: Any, part: Path, kind: str) -> None:
    changes = changes_of(whole, small)
    before = tensors_of(whole)
    shapes = {name: list(one.shape) for name, one in tensors_of(small).items() if name not in before or
              before[name].shape != one.shape}  # fmt: skip
    plain = copy.copy(small)  # saved without what is noted on the pruned model
    plain.config = copy.deepcopy(small.config)
    plain.save_pretrained(part)
    config = part / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values[_CHANGES] = {**changes, "shapes": shapes}
    values["base_class"] = kind
    values["architectures"] = [f"Pruned{kind}"]
    values["auto_map"] = dict.fromkeys(_automatic(whole), f"pruned.Pruned{kind}")
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    code = _CODE.format(kind=kind, changes=_CHANGES, resize=inspect.getsource(loader.resize))
    (part / "pruned.py").write_text(code, encoding="utf-8")


def _automatic(model: Any) -> list[str]:
    """Return the names of the ``AutoModel`` classes that would build a model of this class."""
    import transformers

    found = []
    for name in dir(transformers):
        if name.startswith("AutoModel"):
            mapping = getattr(getattr(transformers, name), "_model_mapping", None)
            kinds = () if mapping is None else mapping.get(type(model.config), ())
            if type(model) in (kinds if isinstance(kinds, tuple | list) else (kinds,)):
                found.append(name)
    return found


def _check(small: nn.Module, part: Path, kind: str) -> None:
    try:
        again = _loaded(getattr(_imported(part / "pruned.py"), f"Pruned{kind}"), part)
    except Exception as error:
        raise InputError(f"the model cannot be rebuilt from its widths: {one_line(error)}") from error
    check_rebuilt(small, again)


def _loaded(kind: Any, folder: Path) -> nn.Module:
    model: nn.Module = kind.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    return model.eval()


def _imported(file: Path) -> ModuleType:
    """Return the code that was just written."""
    spec = importlib.util.spec_from_file_location("_pruned_model", file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
