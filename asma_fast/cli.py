"""The command ``asma-fast``. It starts with NumPy alone; each verb imports what it needs when it is called.

Exit status: 0 done; 1 done, but some files could not be read (``prepare``) or something looks wrong
(``inspect --check``); 2 not done, and one sentence on standard
error says why (``--debug``, or ``ASMA_DEBUG=1``, shows where); 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from asma_fast import __version__
from asma_fast.config import Presets, add_options, from_options

# The extra that brings what a verb needs.
_EXTRA = "train"


@dataclass(frozen=True)
class Verb:
    """One verb: its line of help, its config, its presets, and what runs it."""

    help: str
    run: Callable[[Any], int]
    config: Callable[[], type[Any] | None] = lambda: None
    presets: Callable[[], Presets] = dict


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait by spinning take the cores from those they wait for wherever other programs run besides.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # A file name that is no text (not UTF-8) is shown with escapes; it is no reason to fail once the work is done.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in arguments or os.environ.get("ASMA_DEBUG", "") not in ("", "0")
    try:
        verb, given = _parse(arguments)
        kind = verb.config()
        return verb.run(None if kind is None else from_options(kind, given, verb.presets()))
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from what is saved", 130)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if debug:
            raise
        return _fail(_sentence(error), 2)


def _parse(arguments: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="asma-fast",
        description="Self-supervised skeleton action recognition by asymmetric masking (ASMa).",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"asma-fast {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    asked = arguments[0] if arguments else ""
    children = {}
    for name, verb in VERBS.items():
        child = verbs.add_parser(name, help=verb.help, description=verb.help, allow_abbrev=False)
        children[name] = child
        child.add_argument("--debug", action="store_true", help="show the traceback of an error")
        # Only the verb that runs pays for its config.
        kind = verb.config() if name == asked else None
        if kind is not None:
            add_options(child, kind, verb.presets())
    if asked not in children:
        parser.parse_args(arguments)
        parser.error("the verb comes first")
    # By the verb's own parser: within a parser of verbs, options may not stand between positionals.
    return VERBS[asked], children[asked].parse_intermixed_args(arguments[1:])


def _fail(sentence: str, status: int) -> int:
    print(f"asma-fast: {sentence}", file=sys.stderr)
    return status


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("asma_fast"):
        return f"{error.name.split('.')[0]} is not installed: pip install 'asma-fast[{_EXTRA}]'"
    return " ".join(str(error).split()) or type(error).__name__


def _info(_: None) -> int:
    from asma_fast.info import info

    print(info())
    return 0


def _prepare(config: Any) -> int:
    from asma_fast.data import prepare

    shown = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        print(f"\rprepare {config.dataset}: {done}/{total}", end="", file=sys.stderr, flush=True)

    report = prepare(config, progress=progress if shown else None)
    if shown:
        print(file=sys.stderr)
    print(report)
    return 0 if report.ok else 1


def _convert(config: Any) -> int:
    from asma_fast.data.convert import convert

    print(convert(config))
    return 0


def _pretrain(config: Any) -> int:
    from asma_fast.training import dry_run, pretrain

    if config.dry_run:
        print(dry_run(config))
        return 0
    result = pretrain(config)
    if result.rank:
        return 0
    for encoder, path in result.checkpoints.items():
        losses = result.losses.get(encoder)
        told = f", loss {losses[0]:.4g} → {losses[-1]:.4g}" if losses else ""
        print(f"{encoder}: {result.epochs[encoder]} epochs{told}, {path}")
    return 0


def _probe(config: Any) -> int:
    from asma_fast.training import probe

    print(probe(config))
    print(f"record: {config.out}")
    return 0


def _trained(name: str) -> Callable[[Any], int]:
    """Runs a verb that trains; the first of its processes prints what it measured, and where its records are."""

    def run(config: Any) -> int:
        result = getattr(import_module("asma_fast.training"), name)(config)
        if result.rank == 0:
            print(result)
            for path in result.files.values():
                print(f"record: {path}")
        return 0

    return run


def _recorded(name: str) -> Callable[[Any], int]:
    """Runs a verb whose result prints itself, and tells where its record is."""

    def run(config: Any) -> int:
        print(getattr(import_module("asma_fast.training"), name)(config))
        print(f"record: {config.out}")
        return 0

    return run


def _extract(config: Any) -> int:
    from asma_fast.training import extract

    print(extract(config))
    return 0


def _predict(config: Any) -> int:
    from asma_fast.training import predict

    result = predict(config)
    if config.out is None:
        print(result.json_lines() if config.format == "json" else result)
    else:
        print(f"{len(result.names)} clips: {config.out}")
    return 0


def _export(config: Any) -> int:
    from asma_fast.edge.verbs import export_checkpoint

    print(f"model file: {export_checkpoint(config)}")
    return 0


def _classify(config: Any) -> int:
    from asma_fast.edge.verbs import classify

    if config.follow:
        return _follow(config)
    found = classify(config)
    print(found.json_line() if config.format == "json" else found)
    return 0


def _follow(config: Any) -> int:
    from asma_fast.edge.follow import Follower

    follower = Follower(config, _say)
    try:
        for answer in follower.answers(sys.stdin):
            print(answer, flush=True)
    except KeyboardInterrupt:  # how a camera's stream ends
        pass
    finally:
        _say(follower.statistics())
    return 1 if follower.skipped else 0


def _table(config: Any) -> int:
    from asma_fast.training import table

    result = table(config)
    print(result if config.out is None else f"table: {config.out}")
    return 0


def _run(config: Any) -> int:
    from asma_fast.training import run

    print(run(config, tell=_say))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _demo(config: Any) -> int:
    from asma_fast.training import demo

    print(demo(config, tell=_say))
    return 0


def _inspect(config: Any) -> int:
    findings: Sequence[object] = ()
    if config.of_store:
        from asma_fast.data import Store
        from asma_fast.data.summary import check, summarise

        if not config.file.exists():
            raise ValueError(f"{config.path}: no such store; `asma-fast prepare` writes one")
        store = Store.open(config.file)
        if config.check:
            findings = check(store)
            print(*(findings or ("nothing looks wrong",)), sep="\n")
        else:
            print(summarise(store))
    if config.out is not None or not config.of_store:
        from asma_fast.training import inspect

        print(inspect(config))
    return 1 if findings else 0


def _configs(name: str, module: str = "configs", package: str = "training") -> Callable[[], type[Any]]:
    def load() -> type[Any]:
        kind: type[Any] = getattr(import_module(f"asma_fast.{package}.{module}"), name)
        return kind

    return load


def _prepare_config() -> type[Any]:
    from asma_fast.data import PrepareConfig

    return PrepareConfig


def _convert_config() -> type[Any]:
    from asma_fast.data.convert import ConvertConfig

    return ConvertConfig


def _probe_presets() -> Presets:
    from asma_fast.training.configs import PROBE_PRESETS

    return PROBE_PRESETS


def _pretrain_presets() -> Presets:
    from asma_fast.training.configs import PRETRAIN_PRESETS

    return PRETRAIN_PRESETS


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "go through the whole method at a small size, on generated clips or a store's, and write a report",
        _demo,
        _configs("DemoConfig"),
    ),
    "run": Verb(
        "go through the whole method by a recipe, from raw recordings to a student and a report; what is done is kept",
        _run,
        _configs("PipelineConfig", "configs_run"),
    ),
    "prepare": Verb("read raw recordings into a store", _prepare, _prepare_config),
    "convert": Verb("write a store for another toolbox, or in another joint layout", _convert, _convert_config),
    "pretrain": Verb(
        "pretrain encoders on a store without its labels", _pretrain, _configs("PretrainConfig"), _pretrain_presets
    ),
    "probe": Verb("measure what frozen features tell of the classes", _probe, _configs("ProbeConfig"), _probe_presets),
    "finetune": Verb(
        "train a run's encoders with labels, or the same network from scratch",
        _trained("finetune"),
        _configs("FinetuneConfig", "configs_supervised"),
    ),
    "semi": Verb(
        "fine-tune with few labels: shares of the training clips, or so many a class, over several draws",
        _trained("semi"),
        _configs("SemiConfig", "configs_supervised"),
    ),
    "align": Verb(
        "join two pretrained encoders by a module that is trained with labels, frozen or together with it",
        _trained("align"),
        _configs("AlignConfig", "configs_supervised"),
    ),
    "transfer": Verb(
        "fine-tune a run's encoders on another data set, also of another joint layout",
        _trained("transfer"),
        _configs("TransferConfig", "configs_supervised"),
    ),
    "distill": Verb(
        "teach a light student what a trained network says of clips, with labels or without",
        _trained("distill"),
        _configs("DistillConfig", "configs_distill"),
    ),
    "online": Verb(
        "train a network for streams on continuous recordings or trimmed clips, and measure it by its stream",
        _trained("online"),
        _configs("OnlineConfig", "configs_online"),
    ),
    "robust": Verb(
        "measure a network on test recordings with noise: jitter, missing joints, dropped frames, another camera",
        _recorded("robust"),
        _configs("RobustConfig", "configs_measure"),
    ),
    "retrieve": Verb(
        "find clips of the same action by their features, and tell recall and mAP",
        _recorded("retrieve"),
        _configs("RetrieveConfig", "configs_measure"),
    ),
    "extract": Verb("write features of clips to an .npz file", _extract, _configs("ExtractConfig", "configs_measure")),
    "predict": Verb(
        "name the classes of a store's clips, or of one raw file",
        _predict,
        _configs("PredictConfig", "configs_measure"),
    ),
    "fuse": Verb(
        "add the logits of records, stream by stream", _recorded("fuse"), _configs("FuseConfig", "configs_measure")
    ),
    "export": Verb(
        "write a trained classifier as a model file for small machines",
        _export,
        _configs("ExportConfig", package="edge"),
    ),
    "classify": Verb(
        "name the class of one raw recording by a model file, with NumPy alone",
        _classify,
        _configs("ClassifyConfig", package="edge"),
    ),
    "table": Verb(
        "compare records as Markdown, with intervals, a baseline and published numbers",
        _table,
        _configs("TableConfig", "configs_measure"),
    ),
    "inspect": Verb(
        "tell what a store holds, check it (--check), or draw a clip, its motion, and what each encoder's views lose",
        _inspect,
        _configs("InspectConfig"),
    ),
    "info": Verb("versions, instruction set, threads, and which implementations can run", _info),
}

if __name__ == "__main__":
    sys.exit(main())
