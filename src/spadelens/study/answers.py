"""The key of a study and the answers of its raters."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spadelens.errors import InputError
from spadelens.files import read_json, whole_file

ARMS = ("original", "trace")
UNDECIDED = "undecided"
CHOICES = ("A", "B", UNDECIDED)
KEY_FORMAT = "spadelens-study-key-1"
KEY_FILE = Path("private") / "key.json"
_COLUMNS = ("task", "rater", "answer")


@dataclass(frozen=True)
class KeyTask:
    """A task in the key of a study.

    Attributes:
        task: Its name.
        sample: The sample that it shows.
        arm: 'original' or 'trace': whose visualization it shows.
        correct: 'A' or 'B': the region of the class whose visualization it shows.
    """

    task: str
    sample: str
    arm: str
    correct: str


@dataclass(frozen=True)
class Answer:
    """An answer of a rater.

    Attributes:
        task: The name of the task.
        rater: Who answered.
        answer: 'A', 'B' or 'undecided'.
    """

    task: str
    rater: str
    answer: str


def read_key(folder: Path) -> list[KeyTask]:
    """Return the tasks of the study in `folder`.

    Raises:
        InputError: It holds no study, or its key is damaged.
    """
    file = folder / KEY_FILE
    if not file.is_file():
        raise InputError(f"There is no study in {str(folder)!r}: {str(KEY_FILE)!r} is missing.")
    try:
        listing = read_json(file)
        if listing["format"] != KEY_FORMAT:
            raise ValueError(f"expected the format {KEY_FORMAT!r}, got {listing['format']!r}")
        tasks = [
            KeyTask(str(row["task"]), str(row["sample"]), str(row["arm"]), str(row["correct"]))
            for row in listing["tasks"]
        ]
        if any(task.arm not in ARMS or task.correct not in CHOICES[:2] for task in tasks):
            raise ValueError("expected the arms dense and spade, and A or B as the correct answer")
        if not tasks or len({task.task for task in tasks}) < len(tasks):
            raise ValueError("expected at least one task, and unique names")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Cannot read the key of a study in {str(file)!r}: {error!r}.") from error
    return tasks


def read_answers(file: Path, key: Sequence[KeyTask]) -> list[Answer]:
    """Return the answers in a file: CSV with the columns task, rater and answer, or JSON lines where it ends in .jsonl.

    Other columns are passed over, as are empty lines, and spaces around values. Answers may be in any case.

    Raises:
        InputError: The file cannot be read, holds no answer, or a line of it has an unknown task or answer, no rater,
            or the task that the same person has answered before.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise InputError(f"Cannot read the answers in {str(file)!r}: {reason}.") from error
    is_json = file.suffix == ".jsonl"
    tasks = {task.task for task in key}
    answers: list[Answer] = []
    lines: dict[tuple[str, str], int] = {}
    for number, row in _json_rows(text, file) if is_json else _csv_rows(text, file):
        answer = _to_answer(row, tasks, f"Line {number} of {str(file)!r}")
        before = lines.setdefault((answer.task, answer.rater), number)
        if before != number:
            raise InputError(
                f"Line {number} of {str(file)!r} has the task {answer.task!r} of the rater {answer.rater!r} again, "
                f"after line {before}: expected one answer per rater and task. Delete one of the two."
            )
        answers.append(answer)
    if not answers:
        raise InputError(f"There is no answer in {str(file)!r}: expected one line per answer.")
    return answers


def write_answers(file: Path, answers: Iterable[Answer]) -> None:
    """Write answers as CSV, as `read_answers` reads them.

    Raises:
        OutputError: The file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((answer.task, answer.rater, answer.answer) for answer in answers)
    with whole_file(file) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8")


def _to_answer(row: Mapping[str, Any], tasks: set[str], where: str) -> Answer:
    values = {}
    for column in _COLUMNS:
        value = row.get(column)
        values[column] = "" if value is None else str(value).strip()
    choice = {known.lower(): known for known in CHOICES}.get(values["answer"].lower())
    if values["task"] not in tasks:
        raise InputError(f"{where} has the task {values['task']!r}, which is not one of the study's {len(tasks)}.")
    if not values["rater"]:
        raise InputError(f"{where} has no rater: expected a name or number that identifies the person.")
    if choice is None:
        raise InputError(
            f"{where} has the answer {values['answer']!r}: expected A, B or undecided. "
            "Omit the line of a task that was not answered."
        )
    return Answer(values["task"], values["rater"], choice)


def _csv_rows(text: str, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = [column for column in _COLUMNS if column not in reader.fieldnames]
        if missing:
            raise InputError(
                f"The answers in {str(file)!r} have no column {missing[0]!r}: expected a first line with the columns "
                "task, rater and answer, with commas between them."
            )
        for row in reader:
            if any(str(value or "").strip() for value in row.values()):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"Line {reader.reader.line_num} of {str(file)!r} is not valid CSV: {error}.") from error


def _json_rows(text: str, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"Line {number} of {str(file)!r} is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise InputError(f"Line {number} of {str(file)!r} is not an object with task, rater and answer.")
        yield number, row
