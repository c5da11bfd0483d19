"""The true class of an input, where the user's files say so."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from spadelens.errors import InputError, UnknownNameError, suggest
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample
from spadelens.models import Loaded, find_class
from spadelens.tasks.inputs import Given, PhotoFile
from spadelens.tasks.label_files import Entry, Label, LabelFile, read_label_file
from spadelens.tasks.subjects import Subject, show
from spadelens.text_files import TableLine, shown

FOLDERS = "folders"
BESIDE = "labels.json"
_SUFFIXES = (".json", ".csv", ".tsv")

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Labels:
    """What the user's files say of inputs, before there is a model to look the classes up in.

    Attributes:
        said: The labels of each input; none where nothing is said, several where entries repeat it.
        column: The column of the tables that holds them, if one does.
        beside: For each input, the `labels.json` beside it that `said` comes from, if nobody asked for it.
        folders: For each input, the name of its folder where that counts without anybody asking; else empty.
        notes: Sentences on files that were found and cannot be used.
    """

    said: tuple[tuple[Label, ...], ...]
    column: str | None = None
    beside: tuple[LabelFile | None, ...] = ()
    folders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrueClasses:
    """The true classes of inputs.

    Attributes:
        classes: Of each input; None where it is not known.
        notes: Sentences on files that were found and were not used.
    """

    classes: tuple[int | None, ...]
    notes: tuple[str, ...] = ()


def read_labels(labels: str | None, given: Sequence[Given]) -> Labels:
    """Return what the user's files say of the classes of inputs.

    Args:
        labels: 'folders' if the folder of each input is its class; a `.json`, `.csv` or `.tsv` file; or the column of a
            table. None for what lies with the photos: a `labels.json` beside them, folders named like classes.
        given: The inputs.

    Raises:
        InputError: The file cannot be read or does not list an input, or there is no such column.
    """
    if labels is None:
        return _found(given)
    if not labels.strip():
        raise InputError("Cannot use labels without a name: --labels is empty.")
    if labels == FOLDERS:
        return Labels(tuple((_folder_label(one),) for one in given))
    if Path(labels).suffix.lower() in _SUFFIXES:
        return Labels(_listed(read_label_file(Path(labels)), given))
    return Labels(tuple(_cell(labels, one) for one in given), labels)


def find_true_classes(labels: Labels, class_names: tuple[str, ...], num_classes: int) -> TrueClasses:
    """Return the classes of a model that labels name.

    Raises:
        InputError: There is no such class, or labels of one input disagree; not for files that nobody asked for, which
            are left out with a note.
    """
    if not labels.beside:
        return TrueClasses(tuple(_one_class(said, class_names, num_classes) for said in labels.said), labels.notes)
    refused = {file: _why_not(file, class_names, num_classes) for file in dict.fromkeys(labels.beside) if file}
    notes = tuple(why for why in refused.values() if why is not None)
    classes: list[int | None] = []
    for said, file, folder in zip(labels.said, labels.beside, labels.folders, strict=True):
        is_used = file is not None and refused[file] is None
        listed = _one_class(said, class_names, num_classes) if is_used else None
        classes.append(_class_of_folder(folder, class_names[:num_classes]) if listed is None else listed)
    return TrueClasses(tuple(classes), (*labels.notes, *notes))


def label_subjects(
    loaded: Loaded, subjects: Sequence[Subject], labels: Labels
) -> tuple[list[Subject], tuple[str, ...]]:
    """Return the subjects with their true classes, and sentences on files that were found and not used.

    The model is run once, on the first subject, to count its classes, if something is said of any.

    Raises:
        InputError: As `find_true_classes`.
        ModelOutputError: The model fails on the first subject.
    """
    names = {_folded(name) for name in loaded.class_names}
    if not any(labels.said) and not any(_folded(folder) in names for folder in labels.folders if folder):
        return list(subjects), labels.notes
    shown_subject = show(loaded, subjects[0], "none")
    sample = check_sample(shown_subject.model, shown_subject.sample)
    num_classes = class_scores(shown_subject.model, sample.unsqueeze(0)).shape[1]
    found = find_true_classes(labels, loaded.class_names, num_classes)
    labelled = [
        replace(subject, true_class=true_class) for subject, true_class in zip(subjects, found.classes, strict=True)
    ]
    return labelled, found.notes


def mistakes_first(items: Sequence[Item], predicted: Sequence[int], true: Sequence[int | None]) -> list[Item]:
    """Return items in the order in which they are worth a look: wrong predictions, right ones, those without a label.

    Args:
        items: What is ordered; those of one group keep their order.
        predicted: The predicted class of each.
        true: The true class of each; None where it is not known.

    Raises:
        ValueError: There are not equally many.
    """
    groups: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    for item, guess, label in zip(items, predicted, true, strict=True):
        groups[2 if label is None else int(guess == label)].append(item)
    return [item for group in groups for item in group]


def _found(given: Sequence[Given]) -> Labels:
    """Return what lies with photos, without being asked for: a `labels.json` beside them, and their folders."""
    said: list[tuple[Label, ...]] = [()] * len(given)
    beside: list[LabelFile | None] = [None] * len(given)
    folders = [""] * len(given)
    notes: list[str] = []
    members: dict[Path, list[int]] = {}
    for number, one in enumerate(given):
        if isinstance(one, PhotoFile):
            folders[number] = _folder(one.file)
            members.setdefault(one.file.parent, []).append(number)
    for folder, numbers in members.items():
        if not os.path.lexists(folder / BESIDE):
            continue
        try:
            file = read_label_file(folder / BESIDE)
        except InputError as error:
            notes.append(_not_used(error))
            continue
        for number, entries in zip(numbers, file.find([(given[one].file, None) for one in numbers]), strict=True):
            said[number] = _labels_of(entries)
            beside[number] = file if said[number] else None
    return Labels(tuple(said), None, tuple(beside), tuple(folders), tuple(notes))


def _not_used(error: InputError) -> str:
    return f"The labels beside the photos are not used. {error}"


def _labels_of(entries: Sequence[Entry]) -> tuple[Label, ...]:
    return tuple(entry.label for entry in entries if entry.label is not None)


def _listed(file: LabelFile, given: Sequence[Given]) -> tuple[tuple[Label, ...], ...]:
    found = file.find([(one.file, None if isinstance(one, PhotoFile) else one.line) for one in given])
    missing = [one for one, entries in zip(given, found, strict=True) if not entries]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"There is no label for {_shown(missing[0])}{others} in {shown(file.file)}: expected an entry for "
            "each input, with an empty class where it is not known."
        )
    return tuple(map(_labels_of, found))


def _cell(column: str, one: Given) -> tuple[Label, ...]:
    if not isinstance(one, TableLine):
        raise InputError(
            f"Cannot use --labels {column!r}: expected {FOLDERS!r}, a .json or .csv file, or, for a table, one of its "
            "columns."
        )
    if column not in one.cells:
        raise InputError(
            f"The table {shown(one.file)} has no column {column!r} for --labels.{suggest(column, one.cells)} Or name a "
            "file, .json or .csv."
        )
    cell = one.cells[column].strip()
    return (Label(cell, None, f"line {one.line}, column {column!r} of {shown(one.file)}"),) if cell else ()


def _folder_label(one: Given) -> Label:
    folder = _folder(one.file)
    if not folder:
        raise InputError(f"The file {_shown(one)} lies in no folder that could name its class.")
    return Label(folder, None, f"the folder of {_shown(one)}")


def _folder(file: Path) -> str:
    parent = file.absolute().parent
    return (parent.resolve() if parent.name == ".." else parent).name


def _shown(one: Given) -> str:
    return shown(one.file if isinstance(one, PhotoFile) else Path(f"{one.file}:{one.line}"))


def _one_class(said: Sequence[Label], class_names: tuple[str, ...], num_classes: int) -> int | None:
    """Return the class that all labels of an input name; None if there are none."""
    classes = {_look_up(label, class_names, num_classes): label for label in said}
    if len(classes) > 1:
        first, second, *_ = classes.values()
        raise InputError(
            f"Two labels of one input disagree: {_spelled(first)} in {first.source}, {_spelled(second)} in "
            f"{second.source}. Delete one of them."
        )
    return next(iter(classes), None)


def _why_not(file: LabelFile, class_names: tuple[str, ...], num_classes: int) -> str | None:
    """Return a sentence on why a file that nobody asked for is not used, if one of its entries is not valid."""
    by_file: dict[str, list[Label]] = {}
    for entry in file.entries:
        if entry.label is not None:
            by_file.setdefault(os.path.normpath(entry.file), []).append(entry.label)
    try:
        for said in by_file.values():
            _one_class(said, class_names, num_classes)
    except InputError as error:
        return _not_used(error)
    return None


def _look_up(label: Label, class_names: tuple[str, ...], num_classes: int) -> int:
    names = class_names[:num_classes]
    if label.index is None:
        assert label.text is not None
        return _find(label, label.text, names, num_classes)
    if not 0 <= label.index < num_classes:
        raise InputError(
            f"Cannot use the label {_spelled(label)} in {label.source}: the model has {num_classes} classes, numbered "
            "from 0."
        )
    known = names[label.index] if label.index < len(names) else None
    if label.text is not None and known is not None and _folded(label.text) not in _names_of(known):
        raise InputError(
            f"Cannot use the label {_spelled(label)} in {label.source}: class {label.index} of the model is {known!r}."
        )
    return label.index


def _find(label: Label, text: str, class_names: tuple[str, ...], num_classes: int) -> int:
    """Return the class of that name or number; one of several names of a class will do, if no other class has it."""
    try:
        return find_class(text, class_names, num_classes)
    except UnknownNameError as error:
        matches = [index for index, name in enumerate(class_names) if _folded(text) in _names_of(name)]
        if len(matches) == 1:
            return matches[0]
        several = f"several classes have that name, use one of the numbers {matches}."
        why = several if matches else f"the model has no such class.{suggest(text, class_names)}"
        raise InputError(f"Cannot use the label {_spelled(label)} in {label.source}: {why}") from error
    except InputError as error:
        raise InputError(f"Cannot use the label {_spelled(label)} in {label.source}: {error}") from error


def _class_of_folder(folder: str, class_names: tuple[str, ...]) -> int | None:
    """Return the class with exactly the name of a folder, if it is the only one."""
    wanted = unicodedata.normalize("NFC", folder).lower()
    matches = [i for i, name in enumerate(class_names) if unicodedata.normalize("NFC", name).lower() == wanted]
    return matches[0] if folder and len(matches) == 1 else None


def _names_of(class_name: str) -> set[str]:
    """Return the names of a class such as 'tench, Tinca tinca'."""
    return {_folded(class_name), *map(_folded, class_name.split(","))} - {""}


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).lower().replace("_", " ").split())


def _spelled(label: Label) -> str:
    text = "" if label.text is None else repr(label.text if len(label.text) <= 60 else f"{label.text[:60]}...")
    number = "" if label.index is None else str(label.index) if abs(label.index) < 10**12 else "with too many digits"
    return f"{number} ({text})" if number and text else number or text
