"""Answers of people: what is read is what they said, and intervals hold what is known as often as they say."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spadelens.errors import InputError
from spadelens.study.analysis import RESPONSES, Rate, analyze_study, tabulate
from spadelens.study.answers import KEY_FORMAT, Answer, KeyTask, read_answers, read_key, write_answers
from spadelens.study.simulation import Skill, simulate_answers

SKILLS = {"original": Skill(0.75, 0.7), "trace": Skill(0.8, 0.75)}


def make_key(num_samples: int, seed: int = 0) -> list[KeyTask]:
    rng = np.random.default_rng(seed)
    arms = [(sample, arm) for sample in range(num_samples) for _ in range(2) for arm in ("original", "trace")]
    return [KeyTask(f"t{i}", f"s{sample}", arm, "AB"[rng.integers(2)]) for i, (sample, arm) in enumerate(arms)]


def write_key(folder: Path, num_samples: int) -> list[KeyTask]:
    (folder / "private").mkdir(parents=True, exist_ok=True)
    key = make_key(num_samples)
    listing = {"format": KEY_FORMAT, "tasks": [vars(task) for task in key]}
    (folder / "private" / "key.json").write_text(json.dumps(listing))
    return key


def test_answers_come_back_from_files(tmp_path: Path) -> None:
    key = write_key(tmp_path, 2)
    answers = [Answer("t0", "Ann, of B", "A"), Answer("t3", "1", "undecided"), Answer("t0", "1", "B")]
    write_answers(tmp_path / "a.csv", answers)
    assert read_answers(tmp_path / "a.csv", key) == answers
    loose = '\ufeffRater, note ,ANSWER,task\r\n" 1 ",x,UNDECIDED,t3\r\n,,,\r\nz,"two\nlines", b,t1\r\n'
    (tmp_path / "b.csv").write_text(loose, newline="")
    assert read_answers(tmp_path / "b.csv", key) == [Answer("t3", "1", "undecided"), Answer("t1", "z", "B")]
    lines = ('{"task": "t2", "rater": 7, "answer": "a"}', "", '{"rater": "x", "task": "t2", "answer": "Undecided"}')
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    assert read_answers(tmp_path / "c.jsonl", key) == [Answer("t2", "7", "A"), Answer("t2", "x", "undecided")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "task,rater,answer\nt0,x,A\nt9,x,B\n", r"Line 3 of .*task 't9'.* study's 8"),
        ("a.csv", "task,rater,answer\nt0,x,A\nt1,x,C\n", r"Line 3 .*answer 'C': expected A, B or undecided"),
        ("a.csv", "task,rater,answer\nt0,x\n", r"Line 2 .*answer ''"),
        ("a.csv", "task,rater,answer\nt0,x,A\n\nt1,y,A\nt0, x,B\n", r"Line 5 .*'t0' of the rater 'x' .*after line 2"),
        ("a.csv", "task,rater,answer\nt0, ,A\n", r"Line 2 .*no rater"),
        ("a.csv", "task;rater;answer\nt0;x;A\n", r"no column 'task'"),
        ("a.csv", "task,rater,answer\n", r"no answer"),
        ("a.csv", "", r"no column 'task'"),
        ("a.csv", 'task,rater,answer\nt0,"x"y,A\n', r"Line 2 .*is not valid CSV"),
        ("a.jsonl", '{"task": "t0", "rater": "x", "answer": "A"}\n{', r"Line 2 .*is not valid JSON"),
        ("a.jsonl", "[1]\n", r"Line 1 .*not an object"),
        ("a.jsonl", '{"task": "t0", "rater": null, "answer": "A"}', r"Line 1 .*no rater"),
    ],
)
def test_answers_that_cannot_be_counted_are_refused_by_their_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    key = write_key(tmp_path, 2)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_answers(tmp_path / name, key)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no study"):
        read_key(tmp_path)
    key = write_key(tmp_path, 2)
    with pytest.raises(InputError, match="No such file"):
        read_answers(tmp_path / "none.csv", key)
    (tmp_path / "bytes.csv").write_bytes(b"task,rater,answer\nt0,\xff,A\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_answers(tmp_path / "bytes.csv", key)
    file = tmp_path / "private" / "key.json"
    good = json.loads(file.read_text())
    rows = good["tasks"]
    wrong = ({"format": "x"}, {"tasks": []}, {"tasks": [*rows, rows[0]]}, {"tasks": [{**rows[0], "arm": "other"}]})
    for change in (*wrong, {"tasks": [{**rows[0], "correct": "undecided"}]}, {"tasks": [{"task": "t0"}]}):
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match="Cannot read the key"):
            read_key(tmp_path)


def test_rates_by_hand() -> None:
    key = [KeyTask("d", "s1", "original", "A"), KeyTask("e", "s2", "original", "B"), KeyTask("p", "s1", "trace", "B")]
    answers = [
        *(Answer("d", rater, answer) for rater, answer in zip("uvwx", ("A", "B", "undecided", "A"), strict=True)),
        Answer("e", "u", "B"),
        *(Answer("p", rater, answer) for rater, answer in zip("uvw", ("B", "A", "A"), strict=True)),
    ]
    table = tabulate(key, answers, num_resamples=50)
    expected = {"original": (20, 20, 60, 75), "trace": (0, 200 / 3, 100 / 3, 100 / 3)}
    expected["difference"] = tuple(b - a for a, b in zip(expected["original"], expected["trace"], strict=True))
    for arm, values in expected.items():
        found = [table.rates[arm][response].percent for response in RESPONSES]
        assert found == pytest.approx(list(values))
    assert (table.num_answers, table.num_tasks) == ({"original": 5, "trace": 3}, 3)
    assert (table.num_raters, table.num_samples, table.resampled) == (4, 2, ("raters", "samples"))
    assert table.rates["trace"]["undecided"] == Rate(0.0, None)  # nobody's answers differ: nothing to resample


def test_an_arm_without_answers_has_no_rates_and_no_nan() -> None:
    key = [KeyTask("d", "s1", "original", "A"), KeyTask("p", "s1", "trace", "B")]
    table = tabulate(key, [Answer("d", "u", "undecided"), Answer("d", "v", "undecided")])
    assert table.rates["trace"]["agree"] == table.rates["difference"]["agree"] == Rate(None, None)
    assert table.rates["original"]["agree_when_decided"] == Rate(None, None)
    assert table.rates["original"]["undecided"] == Rate(100.0, None)
    json.dumps(table.to_dict(), allow_nan=False)
    with pytest.raises(InputError):
        tabulate(key, [])


def balanced(key: list[KeyTask], num_raters: int, seed: int) -> list[Answer]:
    """Return answers of all people to all tasks, some of whom decide seldom, as they do on some samples."""
    rng = np.random.default_rng(seed)
    of_rater, of_sample = rng.uniform(0.4, 0.8, num_raters), rng.uniform(-0.2, 0.2, len(key))
    answers = []
    for rater in range(num_raters):
        for number, task in enumerate(key):
            decides = rng.random() < of_rater[rater] + of_sample[number // 4]
            answers.append(Answer(task.task, str(rater), "AB"[rng.integers(2)] if decides else "undecided"))
    return answers


def test_intervals_are_those_of_the_two_way_variance() -> None:
    """Where everybody answers everything a rate is a mean over a table, whose variances can be written down."""
    key = make_key(15)
    answers = balanced(key, 9, seed=3)
    values = np.zeros((9, 15, 2))
    arms = {task.task: (int(task.sample[1:]), int(task.arm == "trace")) for task in key}
    for answer in answers:
        values[int(answer.rater), arms[answer.task][0], arms[answer.task][1]] += 50 * (answer.answer == "undecided")
    table = tabulate(key, answers, num_resamples=20_000)
    for arm, cells in (("original", values[..., 0]), ("trace", values[..., 1]), ("d", values[..., 1] - values[..., 0])):
        over_raters = cells.mean(1).var(ddof=1) / 9
        over_samples = cells.mean(0).var(ddof=1) / 15
        over_cells = cells.var(ddof=1) / (9 * 15)
        variance = max(over_raters + over_samples - over_cells, over_raters, over_samples)
        rate = table.rates["difference" if arm == "d" else arm]["undecided"]
        assert rate.percent == pytest.approx(cells.mean())
        reach = 2.306004 * variance**0.5  # Student's t with 8 degrees of freedom
        assert rate.interval == pytest.approx((cells.mean() - reach, cells.mean() + reach), abs=0.03 * reach)


@pytest.mark.parametrize(("num_raters", "num_samples"), [(1, 12), (12, 1), (1, 1)])
def test_of_what_there_is_one_nothing_is_resampled(num_raters: int, num_samples: int) -> None:
    key = make_key(num_samples)
    answers = balanced(key, num_raters, seed=1)
    table = tabulate(key, answers, num_resamples=20_000)
    names = (("raters",) if num_raters > 1 else ()) + (("samples",) if num_samples > 1 else ())
    assert table.resampled == names
    rate = table.rates["original"]["undecided"]
    if not names:
        assert rate.interval is None
        return
    of = {task.task: task for task in key}
    groups: dict[str, list[bool]] = {}
    for answer in answers:
        if of[answer.task].arm == "original":
            name = answer.rater if names == ("raters",) else of[answer.task].sample
            groups.setdefault(name, []).append(answer.answer == "undecided")
    means = 100 * np.array([np.mean(group) for group in groups.values()])
    reach = 2.200985 * means.std(ddof=1) / 12**0.5  # Student's t with 11 degrees of freedom
    expected = (max(0.0, means.mean() - reach), min(100.0, means.mean() + reach))
    assert rate.interval == pytest.approx(expected, abs=0.03 * reach)


def test_intervals_end_where_rates_do() -> None:
    key = make_key(2)
    of = {task.task: task for task in key}
    answers = [
        Answer(task, rater, of[task].correct if (rater == "u") == (of[task].arm == "original") else "undecided")
        for task in of
        for rater in "uv"
    ]
    table = tabulate(key, answers, num_resamples=200)
    assert table.rates["original"]["agree"] == Rate(50.0, (0.0, 100.0))
    assert table.rates["difference"]["agree"] == Rate(0.0, (-100.0, 100.0))


def test_the_seed_and_nothing_else_determines_the_intervals() -> None:
    key = make_key(6)
    answers = balanced(key, 4, seed=2)
    table = tabulate(key, answers, seed=1, num_resamples=50)
    assert tabulate(key, answers[::-1], seed=1, num_resamples=50) == table
    assert tabulate(key, answers, seed=2, num_resamples=50) != table


def truth() -> dict[str, list[float]]:
    rates = {
        arm: [1 - skill.decides, skill.decides * (1 - skill.right), skill.decides * skill.right, skill.right]
        for arm, skill in SKILLS.items()
    }
    rates["difference"] = [b - a for a, b in zip(rates["original"], rates["trace"], strict=True)]
    return {arm: [100 * value for value in values] for arm, values in rates.items()}


def test_many_people_are_as_skilled_as_was_said(tmp_path: Path) -> None:
    write_key(tmp_path, 60)
    answers = simulate_answers(tmp_path, 150, SKILLS, rater_spread=0.15, sample_spread=0.05, seed=1)
    table = tabulate(read_key(tmp_path), answers, num_resamples=20)
    for arm, values in truth().items():
        assert [table.rates[arm][response].percent for response in RESPONSES] == pytest.approx(values, abs=2.5)
    assert len(answers) == 150 * 240


def test_people_and_samples_differ_as_far_as_was_said(tmp_path: Path) -> None:
    key = {task.task: task for task in write_key(tmp_path, 50)}

    def decided(answers: list[Answer], of: Callable[[Answer], str]) -> np.ndarray:
        groups: dict[str, list[bool]] = {}
        for answer in answers:
            groups.setdefault(of(answer), []).append(answer.answer != "undecided")
        return np.array([np.mean(groups[name]) for name in sorted(groups)])

    alike = simulate_answers(tmp_path, 100, SKILLS)
    differing = simulate_answers(tmp_path, 100, SKILLS, rater_spread=0.2)
    by_arm = [
        decided([answer for answer in differing if key[answer.task].arm == arm], lambda answer: answer.rater)
        for arm in ("original", "trace")
    ]
    assert np.corrcoef(*by_arm)[0, 1] > 0.6  # who decides often does so in both arms
    assert decided(alike, lambda answer: answer.rater).std() < 0.05
    assert by_arm[0].std() == pytest.approx((0.2**2 / 3 + 0.75 * 0.25 / 100) ** 0.5, rel=0.25)
    by_sample = decided(
        simulate_answers(tmp_path, 100, SKILLS, sample_spread=0.2), lambda answer: key[answer.task].sample
    )
    assert by_sample.std() == pytest.approx(0.2 / 3**0.5, rel=0.25)


def test_each_gets_some_tasks_once(tmp_path: Path) -> None:
    key = write_key(tmp_path, 5)
    answers = simulate_answers(tmp_path, 30, tasks_per_rater=7, seed=3)
    assert Counter(answer.rater for answer in answers) == {f"r{number}": 7 for number in range(1, 31)}
    assert len({(answer.task, answer.rater) for answer in answers}) == len(answers)
    assert {answer.task for answer in answers} == {task.task for task in key}
    assert simulate_answers(tmp_path, 30, tasks_per_rater=7, seed=3) == answers
    assert simulate_answers(tmp_path, 30, tasks_per_rater=7, seed=4) != answers


def test_people_who_cannot_be_are_refused(tmp_path: Path) -> None:
    write_key(tmp_path, 2)
    with pytest.raises(InputError, match="between 0 and 1"):
        simulate_answers(tmp_path, 2, SKILLS, rater_spread=0.15, sample_spread=0.1)
    with pytest.raises(InputError, match="between 0 and 1"):
        simulate_answers(tmp_path, 2, {"original": Skill(float("nan"), 0.5), "trace": Skill(0.5, 0.5)})
    with pytest.raises(InputError, match="expected original and trace"):
        simulate_answers(tmp_path, 2, {"original": Skill(0.5, 0.5)})
    with pytest.raises(InputError, match="the study has 8"):
        simulate_answers(tmp_path, 2, tasks_per_rater=9)


def test_intervals_hold_what_is_known_as_often_as_they_say(tmp_path: Path) -> None:
    write_key(tmp_path, 60)
    file, expected, num_trials = tmp_path / "answers.csv", truth(), 100
    hits = dict.fromkeys(expected, 0)
    for trial in range(num_trials):
        answers = simulate_answers(
            tmp_path, 20, SKILLS, rater_spread=0.1, sample_spread=0.1, tasks_per_rater=50, seed=trial
        )
        write_answers(file, answers)
        table = analyze_study(tmp_path, file, seed=trial, num_resamples=150)
        for arm, values in expected.items():
            for response, value in zip(RESPONSES, values, strict=True):
                least, most = table.rates[arm][response].interval
                hits[arm] += least <= value <= most
    for arm, count in hits.items():
        assert 0.9 <= count / (num_trials * len(RESPONSES)) <= 0.985, arm
