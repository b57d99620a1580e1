"""The public names and their signatures, frozen in ``public_api.txt``.

A change that is meant writes the file again: ``python tests/test_public_api.py``.
"""

import ast
import inspect
import re
from pathlib import Path

import infoprune

FROZEN = Path(__file__).with_name("public_api.txt")


def described():
    """Return one line for every public name, and for every public method of a public class."""
    lines = []
    for name in sorted(infoprune.__all__):
        thing = getattr(infoprune, name)
        if not callable(thing):
            lines.append(f"{name}: {type(thing).__name__}")
            continue
        lines.append(f"{name}{signature(thing)}")
        if inspect.isclass(thing):
            lines += [f"{name}.{line}" for line in methods(thing)]
    return "\n".join(lines) + "\n"


def methods(kind):
    for name, member in sorted(vars(kind).items()):
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"{name}: property"
        elif inspect.isroutine(inspect.unwrap(getattr(kind, name))):
            yield f"{name}{signature(getattr(kind, name))}"


def signature(thing):
    """Return a signature as text that is the same in every version of Python, without help texts and ranges."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return f" of {thing.__mro__[1].__name__}"
    found = inspect.signature(thing)
    plain = [one.replace(annotation=without_help(one.annotation)) for one in found.parameters.values()]
    text = str(found.replace(parameters=plain)).replace("'", "")
    return re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", text)


def without_help(annotation):
    """Return the type that ``Annotated[type, Option(...)]`` declares, other annotations as they are."""
    if not isinstance(annotation, str) or not annotation.startswith("Annotated["):
        return annotation
    declared = ast.parse(annotation, mode="eval").body
    return ast.unparse(declared.slice.elts[0])


def test_public_names_and_signatures_are_those_on_record():
    assert described().splitlines() == FROZEN.read_text(encoding="utf-8").splitlines()


def test_every_public_name_is_there():
    assert len(set(infoprune.__all__)) == len(infoprune.__all__)
    for name in infoprune.__all__:
        assert getattr(infoprune, name) is not None


if __name__ == "__main__":
    FROZEN.write_text(described(), encoding="utf-8")
