"""Typed configs, and the ways to fill one: its defaults, a preset, a YAML file, command-line options, in that order.

A config is a frozen dataclass whose fields carry, as :func:`option` gives it, a sentence of help. Fields are int,
float, bool, str, ``Path``, a ``Literal``, a tuple of one of these, or one of these ``| None``.
"""

from __future__ import annotations

import argparse
import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Presets = Mapping[str, Mapping[str, Any]]
_NAMES = {int: "a whole number", float: "a number", bool: "true or false"}


def option(default: T, help: str, *, positional: bool = False) -> T:
    """A dataclass field with its sentence for ``--help``; positional ones are given without their name."""
    return field(default=default, metadata={"help": help, "positional": positional})


def build(kind: type[T], *layers: tuple[str, Mapping[str, Any]]) -> T:
    """A config of ``kind`` from layers of values, later ones winning over earlier ones and over the defaults.

    Parameters
    ----------
    layers
        ``(where the values come from, values)``; the first part is for messages only.

    Raises
    ------
    ValueError
        If a name is unknown (the nearest one is suggested), or a value does not fit its field.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Run:
    ...     epochs: int = option(150, "passes over the data")
    >>> build(Run, ("preset", {"epochs": 2}), ("options", {"epochs": "3"}))
    Run(epochs=3)
    """
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for where, layer in layers:
        for key, value in layer.items():
            name = str(key).replace("-", "_")
            if f"{name}_" in hints:  # a field whose option is a keyword of Python
                name += "_"
            if name not in hints:
                near = difflib.get_close_matches(name, hints, n=1, cutoff=0.0)
                raise ValueError(f"{where}: there is no option {key!r}; the nearest is {near[0]!r}")
            values[name] = _convert(value, hints[name], f"{where}: {name}")
    for item in fields(cast(Any, kind)):
        if item.default is MISSING and item.name not in values:
            raise ValueError(f"{layers[-1][0]}: {item.name} must be given: {item.metadata['help']}")
    return kind(**values)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The options in a YAML file, a mapping of names to values.

    Raises
    ------
    ValueError
        If the file cannot be read, is not YAML, or holds anything but a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold a mapping of options, got {type(values).__name__}")
    return values


def add_options(parser: argparse.ArgumentParser, kind: type[Any], presets: Presets | None = None) -> None:
    """Give ``parser`` an option for every field of ``kind``, grouped by the dataclass that declares it."""
    if presets:
        parser.add_argument("--preset", choices=sorted(presets), help="start from these values instead of the defaults")
    parser.add_argument("--config", metavar="FILE.yaml", help="options from a file; those given here win over it")
    hints, own = _hints(kind), {item.name: item for item in fields(cast(Any, kind))}
    seen: set[str] = set()
    for owner in reversed(kind.__mro__):
        names = [f.name for f in fields(owner)] if hasattr(owner, "__dataclass_fields__") else []
        declared = [own[name] for name in names if name not in seen]
        if not declared:
            continue
        group = parser.add_argument_group((owner.__doc__ or owner.__name__).strip().splitlines()[0].rstrip("."))
        for item in declared:
            seen.add(item.name)
            text = str(item.metadata.get("help", "")).replace("%", "%%")
            shown = _show(item.default).replace("%", "%%")
            if shown:
                text += " (needed)" if item.default is MISSING else f" (default: {shown})"
            if item.metadata.get("positional"):
                many = "*" if get_origin(hints[item.name]) is tuple else "?"
                group.add_argument(item.name, nargs=many, default=argparse.SUPPRESS, help=text)
                continue
            flag = "--" + item.name.rstrip("_").replace("_", "-")
            if hints[item.name] is bool:
                group.add_argument(
                    flag, dest=item.name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
                )
                continue
            choices = _choices(hints[item.name])
            metavar = "{" + ",".join(choices) + "}" if choices else _metavar(hints[item.name], item.name)
            group.add_argument(flag, dest=item.name, default=argparse.SUPPRESS, metavar=metavar, help=text)


def from_options(kind: type[T], given: argparse.Namespace, presets: Presets | None = None) -> T:
    """The config that parsed options describe: defaults < preset < file < options."""
    chosen = vars(given)
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if presets and chosen.get("preset"):
        layers.append((f"preset {chosen['preset']}", presets[chosen["preset"]]))
    if chosen.get("config"):
        layers.append((chosen["config"], read_yaml(chosen["config"])))
    layers.append(("options", {name: value for name, value in chosen.items() if name in _hints(kind)}))
    return build(kind, *layers)


def as_json(config: Any) -> dict[str, Any]:
    """Every field of a config, as JSON can hold it; :func:`build` reads it back."""
    return {item.name: _plain(getattr(config, item.name)) for item in fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(kind)}


def _choices(hint: Any) -> tuple[str, ...]:
    return tuple(str(choice) for choice in get_args(hint)) if get_origin(hint) is Literal else ()


def _metavar(hint: Any, name: str) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return _metavar(get_args(hint)[0], name)
    if get_origin(hint) is tuple:
        return "A,B,…"
    return {int: "N", float: "X", Path: "PATH"}.get(hint, name.rsplit("_", 1)[-1].upper())


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None or value == "":
            return None
        (inner,) = (arg for arg in args if arg is not type(None))
        return _convert(value, inner, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(str, args))}; got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (str, list, tuple)):
            raise ValueError(f"{where} must be a list, got {value!r}")
        items = value.split(",") if isinstance(value, str) else value
        return tuple(_convert(item, args[0], where) for item in items if item != "")
    if hint in (str, Path):
        if not isinstance(value, (str, Path)):
            raise ValueError(f"{where} must be text, got {value!r}")
        return hint(value)
    return _number(value, hint, where)


def _number(value: Any, hint: Any, where: str) -> Any:
    if hint is bool:
        text = str(value).lower()
        if text in ("true", "false"):
            return text == "true"
    elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = hint(value)
            finite = math.isfinite(number)
        except (ValueError, OverflowError):
            finite = False
        # int(2.5) is 2.
        if finite and (isinstance(value, str) or number == value):
            return number
    raise ValueError(f"{where} must be {_NAMES[hint]}, got {value!r}")
