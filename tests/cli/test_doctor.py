"""`spadelens doctor`, driven as a person drives it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spadelens.attribution import diagnosis
from spadelens.attribution.diagnosis import LayerDiagnosis, MethodDiagnosis, Verdict
from spadelens.attribution.soundness import Soundness
from spadelens.cli.diagnosis import print_diagnosis
from spadelens.cli.main import main
from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.methods.registry import METHODS
from spadelens.tasks.doctor import ModelDiagnosis

PROGRAM = Path(sys.executable).parent / "spadelens"
WIDTH = 80
PHOTO_MODEL = """
import torch
from torch import nn
INPUT_SIZE = 24
CLASS_NAMES = ["[red]one[/red]", "two :heart:", "three"]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.aside = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 8, 3), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))).mean((2, 3)))
class Failing(Net):
    def forward(self, x):
        raise ZeroDivisionError("no scores today")
def build():
    torch.manual_seed(0)
    return Net()
"""
TEXT_MODEL = """
import torch
from torch import nn
MASK_ID = 0
def encode(text):
    words = text.lower().split()
    return [1 + sum(map(ord, word)) % 28 for word in words], words
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.mix, self.out = nn.Embedding(30, 8), nn.Linear(8, 16), nn.Linear(16, 2)
    def forward(self, ids):
        return self.out(torch.relu(self.mix(self.words(ids))).mean(1))
"""
TABLE_MODEL = """
import torch
from torch import nn
FEATURE_NAMES = ["age", "income", "debt"]
MEAN, STD = [40.0, 3000.0, 10.0], [10.0, 1000.0, 5.0]
CLASS_NAMES = ["low", "middle", "high"]
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with models and files to work on, and a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Image.fromarray(draw_image(2, 77).pixels).save("square.png")
    Path("net.py").write_text(PHOTO_MODEL)
    Path("text.py").write_text(TEXT_MODEL)
    Path("table.py").write_text(TABLE_MODEL)
    Path("reviews.txt").write_text("such a fine day\n\nso it goes\n")
    Path("rows.csv").write_text("debt,age,income,id\n12.5,30,2000.1,7\n-1,60,5e3,8\n")
    return tmp_path


def run(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *words])
    assert (caught.value.code or 0) == code


def listing() -> list[str]:
    return sorted(str(path) for path in Path.cwd().rglob("*") if "__pycache__" not in path.parts)


def diagnosed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The diagnosis as JSON, of a run that leaves nothing behind."""
    before = listing()
    capsys.readouterr()
    run(*words, "--json")
    captured = capsys.readouterr()
    assert captured.err == ""
    assert listing() == before
    found: dict[str, Any] = json.loads(captured.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert list(found) == ["spec", "shown", "class_name", "methods", "layers"]
    for one in found["methods"]:
        assert list(one) == ["method", "verdict", "reason", "soundness", "seconds"]
        assert one["verdict"] in ("sound", "doubtful", "refused")
        assert bool(one["reason"]) == (one["verdict"] != "sound")
        assert (one["soundness"] is None) == (one["verdict"] == "refused")
        assert one["soundness"] is None or bool(one["soundness"]["problems"]) == (one["verdict"] == "doubtful")
    return found


def table_of(text: str) -> dict[str, dict[str, str]]:
    """The cells of the table that is printed, method -> header -> cell, by the places of the headers."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("method "))
    headers = list(re.finditer(r"\S+", lines[start]))
    rows = {}
    for line in lines[start + 1 : lines.index("", start)]:
        cells: dict[str, str] = {}
        for word in re.finditer(r"\S+(?: s$)?", line):
            nearest = min(headers, key=lambda h: min(abs(h.start() - word.start()), abs(h.end() - word.end())))
            assert nearest[0] not in cells
            cells[nearest[0]] = word[0]
        rows[cells.pop("method")] = cells
    return rows


def test_the_demo_as_a_person_tries_it(capfd: pytest.CaptureFixture[str]) -> None:
    before = listing()
    run("--model", "demo")
    printed, error = capfd.readouterr()
    assert error == ""
    assert listing() == before
    lines = printed.splitlines()
    assert re.fullmatch(r"demo: class '\w+' of random colors", lines[0])
    assert max(map(len, lines)) <= WIDTH
    rows = table_of(printed)
    assert list(rows) == list(METHODS)
    for name, cells in rows.items():
        assert cells["verdict"] in ("sound", "doubtful"), name
        assert re.fullmatch(r"\d+\.\d s", cells["time"])
    has = {header: [name for name in rows if header in rows[name]] for header in ("missed", "kept", "fit", "gradient")}
    assert has == {
        "missed": ["integrated_gradients", "gradient_shap", "deep_lift"],
        "kept": ["lrp"],
        "fit": ["lime"],
        "gradient": [
            "smoothgrad",
            "integrated_gradients",
            "gradient_shap",
            "deep_lift",
            "lrp",
            "guided_backprop",
            "guided_grad_cam",
        ],
    }
    assert rows["lrp"]["kept"] == "100.0%"
    assert rows["deep_lift"]["missed"] == "0.0%"
    for name, cells in rows.items():
        is_explained = any(line.startswith(f"{name}: ") for line in lines)
        assert is_explained == (cells["verdict"] != "sound" or "head" not in cells), name
    assert lines[-2] == "Traces can prune 15 of 15 convolutions and linear layers."


def test_a_photo_methods_with_settings_and_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["square.png", "--model", "demo", "--method", "occlusion:window=0.5", "--method", "saliency"]
    predicted = diagnosed(capsys, *words)
    assert predicted["shown"] == "square.png"
    assert predicted["class_name"] == "square"
    assert [one["method"] for one in predicted["methods"]] == ["occlusion:window=0.5", "saliency"]
    assert all(one["seconds"] > 0 for one in predicted["methods"])
    assert set(predicted["methods"][1]["soundness"]) == set(Soundness.__dataclass_fields__)
    number = str(CLASS_NAMES.index("ring"))
    by_name, by_number = (diagnosed(capsys, *words, "--target", target) for target in ("ring", number))
    for found in (by_name, by_number, predicted):
        for one in found["methods"]:
            del one["seconds"]
    assert by_name == by_number
    assert by_name["class_name"] == "ring"
    assert by_name["methods"] != predicted["methods"]
    assert by_name["layers"] == predicted["layers"] == {"prunable": by_name["layers"]["prunable"], "refused": {}}
    assert len(by_name["layers"]["prunable"]) == 15


def test_what_is_made_up_is_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("net.py:build", "text.py:Net", "table.py:build"):
        first, second = (diagnosed(capsys, "--model", model, "--method", "saliency") for _ in range(2))
        assert first["methods"][0]["soundness"] == second["methods"][0]["soundness"]


@pytest.mark.parametrize(
    ("model", "file", "shown", "photo_only"),
    [
        ("text.py:Net", None, "a made-up sentence", True),
        ("text.py:Net", "reviews.txt:3", "reviews.txt:3", True),
        ("table.py:build", None, "a random row", True),
        ("table.py:build", "rows.csv:2", "rows.csv:2", True),
        ("net.py:build", None, "random colors", False),
        ("net.py:build", "square.png", "square.png", False),
    ],
)
def test_every_kind_of_model(
    capsys: pytest.CaptureFixture[str], model: str, file: str | None, shown: str, photo_only: bool
) -> None:
    names = ("saliency", "deep_lift", "occlusion", "score_cam")
    words = [word for name in names for word in ("--method", name)]
    found = diagnosed(capsys, *([file] if file else []), "--model", model, *words)
    assert (found["spec"], found["shown"]) == (model, shown)
    verdicts = {one["method"]: one["verdict"] for one in found["methods"]}
    assert (verdicts["score_cam"] == "refused") == photo_only
    assert {verdicts[name] for name in names[:3]} == {"sound"}, found["methods"]
    assert len(found["layers"]["prunable"]) == (3 if model == "net.py:build" else 2)


def test_a_file_of_one_line_needs_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.txt").write_text("\nsuch a day\n")
    found = diagnosed(capsys, "one.txt", "--model", "text.py:Net", "--method", "saliency")
    assert found["shown"] == "one.txt:2"
    assert found["class_name"] == diagnosed(capsys, "one.txt:2", "--model", "text.py:Net")["class_name"]


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("[red]one[/red]", "two :heart:")):
        run("--model", "net.py:build", "--target", str(number), "--method", "guided_backprop")
        printed = capsys.readouterr().out
        assert printed.splitlines()[0] == f"net.py:build: class {name!r} of random colors"
        told = " ".join(printed.split())
        assert "guided_backprop: The method 'guided_backprop' has no rule for the activation 'tanh'" in told
        assert "Traces can prune 3 of 4 convolutions and linear layers." in printed
        assert "\n  1 cannot be pruned, such as 'aside': its weight is not used on this sample\n" in printed


def made(methods: tuple[MethodDiagnosis, ...] = (), refused: dict[str, str] | None = None) -> ModelDiagnosis:
    return ModelDiagnosis("net.py:build", "square.png", "one", methods, LayerDiagnosis(("[a]",), refused or {}))


def test_numbers_of_any_size_fit_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    long = "integrated_gradients:num_steps=5000,baseline=0.25,batch_size=128"
    found = [
        MethodDiagnosis(long, Verdict.DOUBTFUL, "Bad [news].", Soundness(1e31, -1e31, -7.5, -1.0, 0.999, ("x",)), 12.3),
        MethodDiagnosis(
            "[b]", Verdict.SOUND, "", Soundness(9.99, None, None, None, None, (), ("Not [known].",)), 123.4
        ),
        MethodDiagnosis("c", Verdict.REFUSED, "No rule.", None, 0.04),
    ]
    print_diagnosis(made(tuple(found)), as_json=False)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= WIDTH
    cells = next(line.split() for line in printed.splitlines() if "doubtful" in line)
    assert cells[1:] == ["doubtful", ">1000%", "<-1000%", "-7.50", "-1.00", "1.00", "12.3", "s"]
    name = "".join(line.split()[0] for line in printed.split("verdict")[1].splitlines()[1:6] if line[:1].strip())
    assert name.startswith(long)
    assert "999.0%" in printed
    assert "123.4 s" in printed
    assert f"{long}: Bad [news]." in " ".join(printed.split())
    assert "\n[b]: Not [known].\nc: No rule.\n" in printed
    assert "\n[b]   " in printed


def test_reasons_that_are_not_shown_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = {f"[layer{number}]": f"its weight is that of [{number // 2}]" for number in range(17)}
    print_diagnosis(made(refused=reasons), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Traces can prune 1 of 18 convolutions and linear layers.")
    assert lines[start + 1] == "  2 cannot be pruned, such as '[layer0]': its weight is that of [0]"
    assert lines[start + 6] == "  2 cannot be pruned, such as '[layer10]': its weight is that of [5]"
    assert lines[start + 7 : -1] == ["  5 cannot be pruned for other reasons: see --json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "demo", "--method", "lpr"], "Unknown method 'lpr'. Did you mean 'lrp'?"),
        (["--model", "nowhere.py:build", "--method", "lpr"], "Unknown method 'lpr'. Did you mean 'lrp'?"),
        (["--model", "nowhere.py:build", "none.png"], "There is no photo at 'none.png'."),
        (["--model", "demo", "--method", "lime:samples=9"], "Unknown setting of method 'lime' 'samples'."),
        (["--model", "demo", "--method", "lime:num_samples=9"], "Cannot use num_samples=9: expected 10 or more."),
        (["--model", "demo", "--target", "rnig"], "Unknown class 'rnig'. Did you mean 'ring'?"),
        (["--model", "table.py:build", "--target", "3"], "There is no class 3: the model has 3, numbered from 0."),
        (["--model", "demo", "none.png"], "There is no photo at 'none.png'."),
        (["--model", "table.py:build", "none.csv"], "There is no file at 'none.csv'."),
        (["--model", "text.py:Net", "reviews.txt"], "2 samples: name one line, as in 'reviews.txt:1'."),
        (["--model", "table.py:build", "rows.csv"], "2 samples: name one line, as in 'rows.csv:2'."),
        (["--model", "text.py:Net", "rows.csv:2"], "expects texts (.txt), but 'rows.csv:2' is a file of rows"),
        (["--model", "demo", "reviews.txt:1"], "expects photos, but 'reviews.txt:1' is a file of texts (.txt)."),
        (["--model", "table.py:build", "square.png"], "is taken for a photo."),
        (["--model", "demo", "net.py"], "net.py"),
        (["--model", "net.py:Failing"], "ZeroDivisionError: no scores today"),
        (["--model", "nowhere.py:build"], "nowhere.py"),
        (["--model", "demo", "--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    before = listing()
    run(*words, code=1 if "Failing" in words[1] else 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert listing() == before
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_sentences_that_an_encoder_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    Path("words.py").write_text(TEXT_MODEL.replace("text.lower().split()", "[{'day': 'day'}[w] for w in text.split()]"))
    run("--model", "words.py:Net", "--method", "saliency", code=2)
    error = capsys.readouterr().err
    assert error.startswith("Error: Cannot diagnose on 'The quick brown fox jumps over the lazy dog.': ")
    assert error.endswith("KeyError: 'The'. Name a FILE.txt that it can read.\n")
    Path("day.txt").write_text("day day day")
    run("day.txt", "--model", "words.py:Net", "--method", "saliency")


@pytest.mark.parametrize("words", [(), ("--model",), ("square.png",), ("a.png", "b.png", "--model", "demo")])
def test_words_that_are_no_command(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    run(*words, code=2)
    assert "Traceback" not in capsys.readouterr().err


def test_help_answers_without_torch() -> None:
    code = """
import sys
from spadelens.cli.main import main
try:
    main(["doctor", "--help"])
except SystemExit as end:
    heavy = [name for name in ("torch", "numpy", "PIL", "captum", "rich", "matplotlib") if name in sys.modules]
    print(end.code, heavy)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("0 []\n")
    assert "Usage:" in finished.stdout
    assert finished.stderr == ""


def test_a_reader_that_stops_early() -> None:
    """`spadelens doctor ... | head -1`: no traceback, nor a word."""
    command = f"{PROGRAM} doctor --model table.py:build --json | true"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (finished.stdout, finished.stderr) == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("is_lost", "words"), [(False, ()), (True, ()), (True, ("--method", "saliency"))])
def test_interrupts(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    is_lost: bool,
    words: tuple[str, ...],
) -> None:
    real, tried = diagnosis.diagnose_method, []

    def interrupted(*arguments: Any) -> MethodDiagnosis:
        tried.append(arguments)
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            if not is_lost:
                raise
        return real(*arguments)

    monkeypatch.setattr(diagnosis, "diagnose_method", interrupted)
    before = listing()
    run("--model", "table.py:build", *words, code=130)
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip()) == ("", "Interrupted: nothing was written.")
    assert len(tried) == 1
    assert listing() == before
