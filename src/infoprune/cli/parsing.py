"""From the words of the command line to values, and to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infoprune.criteria.base import Tap
from infoprune.errors import InputError
from infoprune.experiment.network import NetworkOptions
from infoprune.files import check_writable, write_text


def network_choice(
    model: str | None, weights: Path | None, arguments: str, mean: str | None, std: str | None, shape: str | None
) -> NetworkOptions:
    """Return which network is meant, with how its images are normalised.

    Raises:
        InputError: An option is malformed.
    """
    sizes = None if shape is None else tuple(int(size) for size in numbers(shape, "--input-shape"))
    if sizes is not None and len(sizes) != 3:
        raise InputError(f"--input-shape takes three numbers C,H,W, not '{shape}'")
    return NetworkOptions(
        model,
        weights,
        json_object(arguments, "--model-args"),
        None if mean is None else numbers(mean, "--mean"),
        None if std is None else numbers(std, "--std"),
        sizes,
    )


def one_of(word: str, choices: Any, option: str) -> Any:
    """Return a word that is one of a ``Literal``'s.

    Raises:
        InputError: It is not.
    """
    if word not in choices.__args__:
        raise InputError(f"{option} takes one of {', '.join(choices.__args__)}, not '{word}'")
    return word


def chosen_tap(tap: str | None) -> Tap | None:
    """Return where maps are read, where that was said.

    Raises:
        InputError: It is no such place.
    """
    return None if tap is None else one_of(tap, Tap, "--tap")


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Return numbers written with commas between them.

    Raises:
        InputError: They are not.
    """
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} takes numbers with commas between them, not '{text}'") from error


def json_object(text: str, option: str) -> dict[str, Any]:
    """Return a JSON object as a dictionary.

    Raises:
        InputError: It is not one.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{option} takes a JSON object such as '{{\"classes\": 10}}': {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{option} takes a JSON object such as '{{\"classes\": 10}}', not {text}")
    return value


def check_outputs(*paths: Path | None, force: bool) -> None:
    """Refuse files that cannot be written, before any work is done.

    Raises:
        InputError: A file exists and is not to be replaced, or its folder cannot be written to.
    """
    for path in paths:
        if path is not None:
            check_writable(path, force=force)


def write_record(record: dict[str, Any], path: Path | None, *, force: bool) -> None:
    """Write a record as JSON where a file was asked for."""
    if path is not None:
        write_text(path, json.dumps(record, indent=1) + "\n", force=force)
