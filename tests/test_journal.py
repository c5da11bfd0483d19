"""`Journal`: records survive interrupts, and half a record is none."""

from pathlib import Path

import pytest

from spadelens.errors import OutputError
from spadelens.files import Journal


def test_records_are_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.jsonl"
    first = Journal(file)
    first.append({"a": 1})
    first.append([2, "zwei"])
    assert Journal(file).records == [{"a": 1}, [2, "zwei"]] == first.records


@pytest.mark.parametrize("length", range(1, 12))
def test_a_line_that_was_cut_short_is_no_record_and_does_not_spoil_the_next(tmp_path: Path, length: int) -> None:
    file = tmp_path / "file.jsonl"
    journal = Journal(file)
    journal.append("kept")
    size = file.stat().st_size
    journal.append({"lost": 12})
    file.write_bytes(file.read_bytes()[: size + length])
    again = Journal(file)
    assert again.records == ["kept"]
    again.append("next")
    assert Journal(file).records == ["kept", "next"]


def test_two_runs_can_write_to_one_file(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    one, other = Journal(file), Journal(file)
    for number in range(5):
        one.append(["one", number])
        other.append(["other", number])
    assert len(Journal(file).records) == 10


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        Journal(tmp_path / "file" / "below.jsonl")
    with pytest.raises(OutputError):
        Journal(tmp_path)


@pytest.mark.parametrize("line", ["3", "null", '{"a": 1}', "[1, 2]", "[" * 100_000])
def test_json_that_is_not_a_record_is_skipped(tmp_path: Path, line: str) -> None:
    (tmp_path / "j").write_text(f'"kept"\n{line}\n')
    journal = Journal(tmp_path / "j", lambda record: isinstance(record, str))
    assert journal.records == ["kept"]


def test_the_journals_of_commands_know_their_records() -> None:
    from spadelens.evaluation import tables, tuning
    from spadelens.study import study

    cell = {"identity": "x", "row": "original", "image": 3, "cells": {"saliency": {"scores": {}}}, "seconds": 1.0}
    known = {
        tables._is_record: (cell, {**cell, "cells": 3}, {**cell, "row": []}),
        tuning._is_record: ([[0, 1], 2, 0.5, True], [[0, 1], 2, None, True], [3, 2, 0.5, True]),
        study._is_record: ({"photo": 3, "outcome": "kept"}, {"photo": []}, {"outcome": "kept"}),
    }
    for is_record, (good, *bad) in known.items():
        assert is_record(good)
        assert not any(map(is_record, [*bad, 3, None, [], {}, "x"]))
