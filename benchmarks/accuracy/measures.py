"""The columns of the study: each gives logits of the test clips for a row, a seed, a data set and a fold of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from design import (
    ALIGN,
    CHOSEN,
    DISTILL,
    FINETUNE,
    FINETUNE_SHOTS,
    LOSS,
    PRETRAINED_ON,
    RBF,
    SETS,
    SHOTS,
    UNTRAINED,
    Row,
    Rows,
    Settings,
)

from asma_fast._files import replacing
from asma_fast.config import as_json
from asma_fast.data import Store
from asma_fast.training import distill
from asma_fast.training.align import pair_of
from asma_fast.training.align import trained as align_trained
from asma_fast.training.checkpoint import save_checkpoint
from asma_fast.training.configs import ProbeConfig
from asma_fast.training.configs_distill import DistillConfig
from asma_fast.training.configs_measure import CONDITIONS
from asma_fast.training.configs_supervised import AlignConfig, FinetuneConfig
from asma_fast.training.dataset import Clips, training_clips
from asma_fast.training.features import calibrate, extract_features, raw_features
from asma_fast.training.finetune import Source
from asma_fast.training.finetune import trained as finetune_trained
from asma_fast.training.launch import launched
from asma_fast.training.models import build_encoder, described, encoder_network, initial_seed, load_encoder, load_model
from asma_fast.training.noise import Noise, noisy
from asma_fast.training.probe import probe_features
from asma_fast.training.records import Floats, read_logits, read_record, scores_of, write_record
from asma_fast.training.semi import draw
from asma_fast.training.supervised import predict_logits

Fold = tuple[Rows, Rows]
FINETUNED = "finetuned.safetensors"


@dataclass(frozen=True)
class Study:
    """Where the study is kept, its settings, and what its encoders were pretrained on."""

    work: Path
    settings: Settings
    sets: tuple[str, ...] = PRETRAINED_ON

    def encoder(self, name: str, seed: int) -> Path:
        """Folder of one encoder's pretraining."""
        return self.work / "encoders" / f"{self.settings.name}_{'+'.join(self.sets)}" / f"{name}-{seed}"

    def folders(self, row: Row, seed: int) -> list[Path]:
        """Of a row's encoders."""
        return [self.encoder(name, seed + more) for name, more in row.encoders]

    def checkpoints(self, row: Row, seed: int) -> list[Path]:
        """Of a row's encoders."""
        return [file for folder in self.folders(row, seed) for file in folder.glob("*.safetensors")]

    def transferred_to(self, dataset: str) -> Study:
        """With encoders that never saw a data set."""
        return replace(self, sets=tuple(name for name in PRETRAINED_ON if name != dataset))

    def folder(self, column: str, dataset: str, fold: str) -> Path:
        """Of the records of a column."""
        return self.work / "records" / column / f"{dataset}-{fold}"

    def store(self, dataset: str) -> Store:
        """A prepared store."""
        return _store(SETS[dataset].file(self.work))

    def all_clips(self, dataset: str) -> Clips:
        """Every clip of a data set, as the encoders see them."""
        return _clips(SETS[dataset].file(self.work), dataset)

    def clips(self, dataset: str, rows: Rows) -> Clips:
        """Some clips of a data set."""
        return self.all_clips(dataset).take(torch.from_numpy(np.asarray(rows, dtype=np.int64)))

    def features(self, row: Row, seed: int, dataset: str, condition: str = "") -> Floats:
        """``(N, D)`` by each encoder of a row, joined: of all clips of a data set; of its test clips, under noise."""
        if row.kind == "raw":
            return raw_features(self.all_clips(dataset))
        return np.concatenate([self._of_one(path, dataset, condition) for path in self.checkpoints(row, seed)], axis=1)

    def _of_one(self, checkpoint: Path, dataset: str, condition: str) -> Floats:
        path = checkpoint.parent / f"{'-'.join(filter(None, ('features', dataset, condition)))}.npy"
        if not path.exists():
            clips = self.all_clips(dataset)
            if condition:
                clips = _noisy(SETS[dataset].file(self.work), dataset, condition)
            made = extract_features(load_encoder(checkpoint)[0], clips)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, made)
        found: Floats = np.load(path)
        return found

    def write_untrained(self, seed: int) -> None:
        """The network before pretraining, batch-norms calibrated on the clips that are pretrained on."""
        folder = self.encoder(UNTRAINED, seed)
        config = self.settings.pretraining(UNTRAINED, seed, self.work, self.sets, folder)
        clips = training_clips(config)[1]
        encoder = build_encoder(config, clips.skeleton, clips.x.shape[1], initial_seed(seed))
        tensors = {f"model.encoder.{name}": tensor for name, tensor in calibrate(encoder, clips).state_dict().items()}
        record = {
            "kind": "pretrain",
            "encoder": UNTRAINED,
            **dict.fromkeys(("epoch", "epochs", "step"), 0),
            "config": as_json(config),
            **described(clips),
            "network": encoder_network(config, clips.skeleton, clips.x.shape[1]),
        }
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / f"{UNTRAINED}.safetensors", tensors, record)


@dataclass(frozen=True)
class Place:
    """One measurement: which encoders, on which fold."""

    study: Study
    row: Row
    seed: int
    dataset: str
    fold: Fold
    column: str
    trained: Path  # folder for what is trained on the way
    name: str

    def folder(self, column: str) -> Path:
        """Of what a column trains: several need the alignment of all training clips."""
        return self.trained / column / self.name

    @property
    def parts(self) -> tuple[Clips, Clips]:
        """Training and test clips."""
        train, test = (self.study.clips(self.dataset, rows) for rows in self.fold)
        return train, test

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the data set."""
        return self.study.store(self.dataset).classes


def probed(place: Place, config: ProbeConfig) -> Floats:
    """By a probe of frozen features."""
    labels = place.study.store(place.dataset).labels.astype(np.int64)
    features = place.study.features(place.row, place.seed, place.dataset)
    train, test = ((features[rows], labels[rows]) for rows in place.fold)
    return probe_features(config, train, test, place.classes).logits


def linear(place: Place) -> Floats:
    return probed(place, ProbeConfig(seed=place.seed))


def knn(place: Place) -> Floats:
    return probed(place, ProbeConfig(method="knn", seed=place.seed))


def rbf(place: Place) -> Floats:
    """A support vector machine with radial basis functions; C, γ and standardisation by the set's inner folds."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    store, (train, test) = place.study.store(place.dataset), place.fold
    labels = store.labels.astype(np.int64)
    features = place.study.features(place.row, place.seed, place.dataset)
    widths = ([StandardScaler()], 1.0), (["passthrough"], float(features[train].var()))
    grid = [
        {
            "scale": scale,
            "svc__C": RBF["C"],
            "svc__gamma": [gamma / spread / features.shape[1] for gamma in RBF["gamma"]],
        }
        for scale, spread in widths
    ]
    folds = SETS[place.dataset].inner(store).values()
    inner = [tuple(np.flatnonzero(np.isin(train, part)) for part in fold) for fold in folds]
    search = GridSearchCV(Pipeline([("scale", None), ("svc", SVC())]), grid, cv=inner)
    found: Floats = search.fit(features[train], labels[train]).decision_function(features[test])
    return found


def robust(place: Place) -> Floats:
    """``(conditions, N, K)``: by a linear probe of clean training clips."""
    study, labels = place.study, place.study.store(place.dataset).labels.astype(np.int64)
    train, test = place.fold
    clean = study.features(place.row, place.seed, place.dataset)
    noised = [study.features(place.row, place.seed, place.dataset, condition) for condition in CONDITIONS]
    asked = (np.concatenate(noised), np.tile(labels[test], len(CONDITIONS)))
    config = ProbeConfig(seed=place.seed)
    logits = probe_features(config, (clean[train], labels[train]), asked, place.classes).logits
    return logits.reshape(len(CONDITIONS), len(test), -1)


def aligned(place: Place) -> Floats:
    """Two frozen encoders under their alignment, trained with the labels of the fold."""
    train, test = place.parts
    return predict_logits(_alignment(place, train, place.folder("aligned")), test)


def _alignment(place: Place, train: Clips, out: Path) -> Any:
    settings = place.study.settings
    options = settings.labelled(place.seed, out, lr=settings.align_lr, **ALIGN)
    encoders = tuple(str(path) for path in place.study.checkpoints(place.row, place.seed))
    config = AlignConfig(**options, encoders=encoders, augment="none")
    with launched(config) as fabric:
        return align_trained(config, pair_of(config), train, fabric)[1]


def finetuned(place: Place) -> Floats:
    """The encoder, or both under their alignment, trained whole with the labels of the fold."""
    return _finetuned(place, *place.parts, FINETUNE, "finetuned", "aligned")


def shots(place: Place) -> Floats:
    """As fine-tuned, all of it with few labels: the draw of the seed's number."""
    train, test = place.parts
    rows = draw(train, lambda count: SHOTS, 0, place.seed)
    return _finetuned(place, train.take(torch.from_numpy(rows)), test, FINETUNE_SHOTS, place.column, place.column)


def _finetuned(place: Place, train: Clips, test: Clips, budget: dict[str, Any], column: str, joined: str) -> Floats:
    """In the folder of a column; the alignment in that of ``joined``."""
    settings, out = place.study.settings, place.folder(column)
    path = place.study.checkpoints(place.row, place.seed)[0]
    if len(place.row.encoders) > 1:
        _alignment(place, train, place.folder(joined))  # from scratch its shape alone counts
        path = place.folder(joined) / "aligned.safetensors"
    scratch = place.row.kind == "scratch"
    lr = settings.scratch_lr if scratch else settings.finetune_lr
    options = settings.labelled(place.seed, out, lr=lr, **budget)
    config = FinetuneConfig(**options, from_="scratch" if scratch else "run")
    source = Source(path, load_model(path)[1])
    with launched(config) as fabric:
        return finetune_trained(config, source, train, test, fabric, out / FINETUNED)[1]


def student(place: Place) -> Floats:
    """A small network, taught by the aligned row."""
    return _taught_aligned(place, LOSS)


def student_alone(place: Place) -> Floats:
    """The same network, schedule and views, on labels alone."""
    return _taught_aligned(place, {**LOSS, "alpha": 0.0})


def student_chosen(place: Place) -> Floats:
    """As the first, with what was chosen on inner splits afterwards."""
    return _taught_aligned(place, CHOSEN)


def student_of_finetuned(place: Place) -> Floats:
    """The same, taught by the row when it is fine-tuned."""
    finetuned(place)
    return _taught(place, place.folder("finetuned") / FINETUNED, LOSS)


def _taught_aligned(place: Place, options: dict[str, Any]) -> Floats:
    _alignment(place, place.parts[0], place.folder("aligned"))
    return _taught(place, place.folder("aligned") / "aligned.safetensors", options)


def _taught(place: Place, teacher: Path, chosen: dict[str, Any]) -> Floats:
    options = place.study.settings.labelled(place.seed, place.folder(place.column), **{**DISTILL, **chosen})
    data, split = SETS[place.dataset].file(place.study.work), SETS[place.dataset].splits[0]
    config = DistillConfig(**options, data=data, split=split, teacher=(teacher,))
    return read_logits(distill(config).files["student"])[0]


MEASURES: dict[str, Callable[[Place], Floats]] = {
    "linear": linear,
    "knn": knn,
    "rbf": rbf,
    "aligned": aligned,
    "robust": robust,
    "student": student,
    "student-alone": student_alone,
    "student-of-finetuned": student_of_finetuned,
    "student-chosen": student_chosen,
    "finetuned": finetuned,
    "scratch": finetuned,
    "shots": shots,
    "transfer": shots,
}


def measure(study: Study, column: str, row: Row, seed: int, dataset: str) -> str:
    """One record a fold, where there is none yet."""
    told = []
    for name, fold in SETS[dataset].folds(study.store(dataset)).items():
        path = study.folder(column, dataset, name) / f"{row.key}-seed{seed}.json"
        if not path.exists():
            place = Place(
                study, row, seed, dataset, fold, column, study.work / "trained", f"{path.parent.name}/{path.stem}"
            )
            _record(path, place)
        told.append(checked_record(study, path, column, row)["accuracy"])
    return f"{column}, {row.name}, seed {seed}, {dataset}: {100 * float(np.mean(told)):.2f} %"


def checked_record(study: Study, path: Path, column: str, row: Row) -> dict[str, Any]:
    """A record that was measured with the study's settings.

    Raises
    ------
    ValueError
        If it was measured with other settings than the study's.
    """
    record: dict[str, Any] = read_record(path)
    if record["settings"] != study.settings.deciding(column, row):
        raise ValueError(f"{path}: was measured with other settings; move it away, or choose another --work")
    return record


def _record(path: Path, place: Place) -> None:
    column = place.column
    logits = MEASURES[column](place)
    train, test = place.parts
    labels = test.labels.numpy()
    flat = logits.reshape(-1, logits.shape[-1])
    scores = scores_of(flat, np.tile(labels, len(flat) // len(labels)), place.classes)
    about = {
        "name": place.row.name,
        "protocol": column,
        "data": {"dataset": place.dataset, "split": path.parent.name, "fingerprint": test.store, "protocol": None},
        "seed": place.seed,
        "settings": place.study.settings.deciding(column, place.row),
    }
    write_record(path, column, scores, place.study.settings, (train, test), about, logits=logits)


def inner_accuracy(study: Study, column: str, row: Row, seed: int) -> dict[str, float]:
    """Accuracy of a column on the inner folds, mean over those of each set; test clips are not touched."""
    found, trained = {}, study.work / "inner" / study.settings.whole_name
    for dataset in PRETRAINED_ON:
        hits = []
        for name, fold in SETS[dataset].inner(study.store(dataset)).items():
            place = Place(study, row, seed, dataset, fold, column, trained, f"{dataset}-{name}-{row.key}-{seed}")
            logits = MEASURES[column](place)
            hits.append(scores_of(logits, place.parts[1].labels, place.classes).accuracy)
        found[dataset] = float(np.mean(hits))
    return found


@cache
def _store(path: Path) -> Store:
    return Store.open(path)


@cache
def _clips(path: Path, dataset: str) -> Clips:
    store = _store(path)
    return SETS[dataset].clips(store, np.arange(len(store)))


@cache
def _noisy(path: Path, dataset: str, condition: str) -> Clips:
    """Test clips of the one split of a data set."""
    ((_, test),) = SETS[dataset].folds(_store(path)).values()
    return noisy(_clips(path, dataset).take(torch.from_numpy(test)), Noise(condition)).held()
