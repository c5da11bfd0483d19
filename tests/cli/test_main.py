"""The command line, driven as a person drives it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from spadelens import Trace, load_model
from spadelens.cli.main import main
from spadelens.demo.images import draw_image
from spadelens.extraction.presets import PRESETS
from spadelens.models import LoadedModel

PROGRAM = Path(sys.executable).parent / "spadelens"
SCHEMA = json.loads((resources.files("spadelens") / "reports" / "report.schema.json").read_text(encoding="utf-8"))
FAST = ("--views", "2", "--schedule", "late:0.5@0.7")
TINY = """
import torch
from torch import nn
INPUT_SIZE = 8
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.linear = nn.Linear(4, 12)
    def forward(self, x):
        return self.linear(self.second(self.first(x)).mean((2, 3)))
def build():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with two photos to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Image.fromarray(draw_image(2, 77).pixels).save("square.png")
    Image.fromarray(draw_image(1, 78).pixels).save("ring.png")
    Path("net.py").write_text(TINY)
    return tmp_path


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load_model("demo", "cpu")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def explain(*arguments: object, model: str = "demo", out: str = "out") -> int:
    return run("explain", *arguments, "--model", model, "--out", out, *FAST)


def listing(folder: Path | None = None) -> dict[str, bytes | None]:
    """Every file below a folder with its content; compiled Python aside."""
    folder = folder or Path.cwd()
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".spadelens.json" and "__pycache__" not in path.parts
    }


def read_report(out: str = "out") -> dict[str, Any]:
    report = json.loads(Path(out, "report.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(report)] == []
    return report


def check_refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run what has to be refused: exit code 2, one sentence, nothing written."""
    before = listing()
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert listing() == before
    error = captured.err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert error.endswith(("\n",))
    assert "Traceback" not in error
    return error.removeprefix("Error: ").strip()


def refuse(
    capsys: pytest.CaptureFixture[str], *arguments: object, photo: str = "square.png", model: str = "demo"
) -> str:
    return check_refusal(capsys, "explain", photo, "--model", model, "--out", "out", *FAST, *arguments)


def test_two_photos_as_a_person_does_it(workplace: Path, demo: LoadedModel) -> None:
    before = listing()
    command = ["explain", "square.png", "ring.png", "--model", "demo", "--out", "out", *FAST]
    finished = subprocess.run([PROGRAM, *command], capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert finished.stderr == ""
    assert "square 9" in finished.stdout
    assert "Report: out/report.html" in finished.stdout
    written = listing()
    names = {"out", "out/report.html", "out/report.json", "out/square", "out/ring"}
    names |= {
        f"out/{n}/{file}" for n in ("square", "ring") for file in ("original.png", "trace.png", "trace.safetensors")
    }
    assert set(written) - set(before) == names
    assert {name: written[name] for name in before} == before
    report = read_report()
    assert [photo["name"] for photo in report["samples"]] == ["square", "ring"]
    assert [photo["file"] for photo in report["samples"]] == ["square.png", "ring.png"]
    for photo in report["samples"]:
        for kind in ("original_map", "trace_map"):
            with Image.open(Path("out", photo["files"][kind])) as picture:
                picture.load()
                assert picture.size == (448, 448)
        trace = Trace.load(Path("out", photo["files"]["trace"]), demo.model)
        assert trace.report.original_prediction.class_index == photo["original"]["class_index"]
    html = Path("out/report.html").read_text(encoding="utf-8")
    assert "http://" not in html.replace("http://www.w3.org", "")
    # and the command in the report does it again
    words = shlex.split(report["command"])
    assert words[0] == "spadelens"
    words[words.index("out")] = "again"
    assert run(*words[1:]) == 0
    for file in (name for name in names if name.endswith((".png", ".safetensors"))):
        if file.endswith(".png"):
            assert Path("again", file.removeprefix("out/")).read_bytes() == written[file], file
    for name in ("square", "ring"):
        first, again = (Trace.load(Path(out, name, "trace.safetensors"), demo.model) for out in ("out", "again"))
        assert all(torch.equal(first.weights[layer], again.weights[layer]) for layer in first.weights)
        assert first.weights.keys() == again.weights.keys()


COMMANDS = [
    ("--method", "integrated_gradients:num_steps=3", "--target", "ring", "--solver", "wanda", "--seed", "7"),
    ("--method", "occlusion:window=0.5,stride=1", "--target", "7", "--augmentation", "none", "--batch-size", "1"),
    ("--method", "gradient_shap:num_samples=2", "--layers", "blocks.4", "--layers", "class*", "--device", "cpu"),
    ("--method", "input_x_gradient", "--solver", "magnitude", "--augmentation", "paper", "--trust"),
    ("--solver", "sparsegpt:damping=0.05,block_size=32", "--schedule", "blocks.4=0.7,classifier=0.3"),
    ("--schedule", "0.1234567"),
    ("--schedule", "late:0.12345678@0.7123456789"),
    ("--preset", "instant", "--positions-per-column", "0", "--memory-budget", "64"),
    ("--preset", "paper-fast", "--precision", "bfloat16", "--schedule", "auto:criterion=agreement,levels=0.5/0.8"),
    (
        "--solver",
        "ols:candidates=1.5",
        "--schedule",
        "auto:threshold=0.8,max_error=0.3,levels=0.95/0.98",
        "--target",
        "ring",
    ),
]


@pytest.mark.parametrize("options", COMMANDS)
def test_commands_lead_back(options: tuple[str, ...], demo: LoadedModel) -> None:
    assert explain("square.png", *options) == 0
    report = read_report()
    words = shlex.split(report["command"])
    words[words.index("out")] = "again"
    assert run(*words[1:]) == 0
    again = read_report("again")
    assert again["settings"] == report["settings"]
    for kind in ("original", "trace"):
        assert Path("again/square", f"{kind}.png").read_bytes() == Path("out/square", f"{kind}.png").read_bytes()
    first, second = (Trace.load(Path(out, "square", "trace.safetensors"), demo.model) for out in ("out", "again"))
    assert all(torch.equal(first.weights[layer], second.weights[layer]) for layer in first.weights)


def test_presets_are_what_is_not_given() -> None:
    for name, preset in PRESETS.items():
        arguments = ["explain", "square.png", "--model", "net.py:build", "--out", name, "--preset", name]
        assert run(*arguments, "--views", "2") == 0
        settings = read_report(name)["settings"]
        assert settings["preset"] == name
        assert (settings["solver"], settings["schedule"]) == (preset.solver, preset.schedule)
        assert settings["positions_per_column"] == preset.positions_per_column
        assert settings["augmentation"].startswith(preset.augmentation)
    assert run("explain", "square.png", "--model", "net.py:build", "--out", "default") == 0
    settings = read_report("default")["settings"]
    assert (settings["preset"], settings["num_views"]) == ("ensemble", PRESETS["ensemble"].num_views)
    assert run("explain", "square.png", "--model", "net.py:build", "--out", "fixed", "--schedule", "0.5") == 0
    assert read_report("fixed")["settings"]["preset"] == "balanced"  # what has no path has no other members


def test_an_ensemble_is_explained_and_its_chosen_trace_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("explain", "square.png", "--model", "demo", "--out")
    assert run(*arguments, "out", "--preset", "ensemble", "--blur", "0.03", "--views", "2") == 0
    report = read_report()
    (photo,) = report["samples"]
    loaded = load_model("demo", "cpu")
    trace = Trace.load(Path("out", photo["files"]["trace"]), loaded.model)
    assert trace.report.trace_prediction.probability == pytest.approx(photo["members"][0]["explained_probability"])
    assert len(photo["members"]) > 1
    assert photo["original_weight"] == 1.0
    assert report["settings"]["blur"] == 0.03
    assert run(*shlex.split(report["command"].replace("--out out", "--out again"))[1:]) == 0
    for name in ("original.png", "trace.png"):
        assert Path("out/square", name).read_bytes() == Path("again/square", name).read_bytes()
    assert run(*arguments, "plain", "--preset", "ensemble", "--views", "2") == 0
    assert Path("out/square/trace.png").read_bytes() != Path("plain/square/trace.png").read_bytes()
    capsys.readouterr()
    assert run(*arguments, "x", "--preset", "ensemble", "--schedule", "0.5") == 2
    assert "auto" in capsys.readouterr().err


def test_the_search_is_shown() -> None:
    assert run("explain", "square.png", "--model", "demo", "--out", "out", "--preset", "fast") == 0
    photo = read_report()["samples"][0]
    assert photo["search"]["chosen_bound"] is not None
    assert photo["is_prediction_kept"]
    assert "Search for the sparsest trace" in Path("out/report.html").read_text(encoding="utf-8")


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    for text, index in (("Ring", 1), ("7", 7)):
        assert explain("square.png", "--target", text) == 0
        report = read_report()
        assert report["samples"][0]["explained_class"]["class_index"] == index
        assert report["settings"]["target"] == text
    assert capsys.readouterr().err == ""


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["x/a.png", "y/a.png", "a b.png", "été 漢.png", "[bold]x[.png", "&<b>'\"$(x).png", "[/red].jpg"]
    pixels = Image.fromarray(draw_image(3, 5).pixels)
    files = []
    for name in names:
        path = Path("in") / name.replace("[/red]", "[-red]")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels.save(path, format="PNG")
        files.append(path)
    assert explain(*files, model="net.py:build") == 0
    report = read_report()
    captured = capsys.readouterr()
    assert captured.err == ""
    expected = ["a", "a-2", "a b", "été 漢", "[bold]x[", "&<b>'\"$(x)", "[-red]"]
    assert [photo["name"] for photo in report["samples"]] == expected
    for name in expected:
        assert name in captured.out
        assert Path("out", name, "trace.png").is_file()
    assert shlex.split(report["command"])[2:9] == [str(file) for file in files]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Path("square.png").rename(name)
    code = explain(name, model="net.py:build")
    assert code in (0, 2)
    if code == 2:
        assert capsys.readouterr().err.startswith("Error: ")
        assert not Path("out").exists()


def test_names_with_a_dash(demo: LoadedModel) -> None:
    Path("square.png").rename("-a.png")
    assert explain("./-a.png") == 0
    words = shlex.split(read_report()["command"])
    words[words.index("out")] = "again"
    assert run(*words[1:]) == 0


def test_other_models_and_photos_that_are_seen_differently() -> None:
    Image.fromarray(np.arange(0, 65536, 4, dtype=np.uint16).reshape(128, 128)).save("deep.png")
    Image.new("CMYK", (30, 40), (10, 200, 30, 5)).save("inks.jpg")
    Image.new("LA", (30, 9), (10, 100)).save("glass.png")
    assert explain("deep.png", "inks.jpg", "glass.png", model="net.py:build") == 0
    assert len(read_report()["samples"]) == 3


def test_more_classes_than_names() -> None:
    Path("net.py").write_text(TINY + "CLASS_NAMES = ['a', 'b']\n")
    assert explain("square.png", "--target", "11", model="net.py:build") == 0
    assert read_report()["samples"][0]["explained_class"] == {"class_index": 11, "class_name": "class 11"}


def test_files_of_the_user_stay() -> None:
    Path("out/square").mkdir(parents=True)
    Path("out/notes.txt").write_text("mine")
    Path("out/square/notes.txt").write_text("mine")
    Path("out/report.html").write_text("old")
    assert explain("square.png", model="net.py:build") == 0
    assert Path("out/notes.txt").read_text() == "mine"
    assert Path("out/square/notes.txt").read_text() == "mine"
    assert Path("out/report.html").read_text() != "old"
    assert [path.name for path in Path("out").rglob(".*")] == [".spadelens.json"]


def test_an_old_report_stays_when_the_run_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("square.png", model="net.py:build") == 0
    capsys.readouterr()
    refuse(capsys, "--target", "99", model="net.py:build")  # found out only when the model has been run
    refuse(capsys, "--target", "99")


@pytest.mark.parametrize("arguments", [(), ("explain",), ("demo",)])
def test_help_answers_without_torch(arguments: tuple[str, ...]) -> None:
    code = f"""
import sys
from spadelens.cli.main import main
try:
    main([*{arguments!r}, "--help"])
except SystemExit as end:
    heavy = [name for name in ("torch", "numpy", "PIL", "captum", "rich", "matplotlib") if name in sys.modules]
    print(end.code, heavy)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("0 []\n")
    assert "Usage:" in finished.stdout
    assert finished.stderr == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.endswith(f"version {version('spadelens')}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("explian",),
        ("explain",),
        ("explain", "square.png"),
        ("explain", "square.png", "--model", "demo"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--views", "0"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--views", "many"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--seed", "-1"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--batch-size", "0"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--methd", "saliency"),
        ("demo", "extra"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    before = listing()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert "Usage:" in captured.err
    assert captured.out == ""
    assert listing() == before


PHOTOS = {
    "missing.png": (None, "There is no photo at 'missing.png'"),
    "folder": ("folder", "There are no photos in the folder 'folder'"),
    "text.jpg": (b"no picture", "'text.jpg' is not a picture"),
    "empty.png": (b"", "'empty.png' is not a picture"),
    "cut.png": ("cut", "'cut.png' cannot be read"),
    "huge.png": (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\x02\0\0\0" + b"\x6c\x23\xd3\xb6",
        "'huge.png'",
    ),
    "x" * 300: (None, "xxx"),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_bad_photos(capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, expected = PHOTOS[name]
    if content == "folder":
        Path(name).mkdir()
    elif content == "cut":
        Path(name).write_bytes(Path("square.png").read_bytes()[:-2000])
    elif isinstance(content, bytes):
        Path(name).write_bytes(content)
    assert expected in refuse(capsys, photo=name)
    assert expected in check_refusal(capsys, "explain", "square.png", name, "--model", "demo", "--out", "out", *FAST)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--method", "salency"), "Unknown method 'salency'. Did you mean 'saliency'?"),
        (("--method", "occlusion:windw=1"), "Did you mean 'window'?"),
        (("--method", "occlusion:window=2"), "Cannot use window=2.0"),
        (("--solver", "sparsgpt"), "Unknown solver 'sparsgpt'. Did you mean 'sparsegpt'?"),
        (("--solver", "sparsegpt:damping=-1"), "damping"),
        (("--augmentation", "nose"), "'noise'"),
        (("--schedule", "1.0"), "1.0"),
        (("--schedule", "-0.1"), "-0.1"),
        (("--schedule", "nan"), "nan"),
        (("--schedule", "lat"), "Did you mean 'late'?"),
        (("--schedule", "clasifier=0.9"), "Did you mean 'classifier'?"),
        (("--schedule", "classifier=2"), "2"),
        (("--schedule", "nowhere.json"), "nowhere.json"),
        (("--layers", "blcks.4"), "Did you mean 'blocks.4'"),
        (("--target", "rng"), "Unknown class 'rng'. Did you mean 'ring'?"),
        (("--target", "10"), "There is no class 10"),
        (("--target", ""), "--target is empty"),
        (("--target", "-1"), "Unknown class '-1'"),
        (("--preset", "ballanced"), "Unknown preset 'ballanced'. Did you mean 'balanced'?"),
        (("--precision", "float16"), "Unknown precision 'float16'. Did you mean 'bfloat16'"),
        (("--schedule", "auto:criterion=insertoin"), "Unknown criterion 'insertoin'. Did you mean 'insertion'?"),
        (("--schedule", "auto:threshold=0"), "threshold 0"),
        (("--schedule", "auto:levels=0.5/1.5"), "1.5"),
        (("--schedule", "auto:levels="), "levels"),
        (("--solver", "admm:num_stages=0"), "num_stages=0"),
        (("--device", "fpga"), "Cannot use the device 'fpga'"),
        (("--device", "meta"), "Cannot use the device 'meta'"),
        (("--device", "hpu"), "Cannot use the device 'hpu'"),
        (("--method", f"gradient_shap:seed={10**30}"), "seed"),
    ],
)
def test_bad_options(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], expected: str) -> None:
    assert expected in refuse(capsys, *options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Cannot use the device 'cuda'" in refuse(capsys, "--device", "cuda")


def test_endless_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    before = listing()
    code = explain("square.png", "--seed", 10**30)
    captured = capsys.readouterr()
    assert code == 0 or (captured.err.startswith("Error: ") and listing() == before)


FORWARD = TINY.replace("return self.linear(self.second(self.first(x)).mean((2, 3)))", "{}")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (FORWARD.format("return self.linear(self.first(x).mean((2, 3))) * float('nan')"), "not finite"),
        (FORWARD.format("return {'logits': x}"), "returned a dict"),
        (FORWARD.format("return self.first(x)"), "returned a tensor of shape [1, 4, 6, 6]"),
        (FORWARD.format("return self.linear(x)"), "cannot be run on a batch of shape [1, 3, 8, 8]"),
        (FORWARD.format("raise ValueError('one\\n\\ttwo')"), "cannot be run"),
        (FORWARD.format("return self.linear(self.second(self.first(x)).mean((2, 3))).detach()"), ""),
        ("from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Softmax(-1))\n", "no layer"),
        (
            "from torch import nn\nINPUT_SIZE = 8\n"
            "def build(): return nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())\n",
            "no layer that may be pruned",
        ),
        ("def build(): raise OSError('no weights')\n", "failed: OSError: no weights"),
        ("def buidl(): pass\n", "Did you mean 'buidl'?"),
        ("def build(): pass\n", "returned a NoneType"),
        ("def build(:\n", "SyntaxError"),
        ("import sys\ndef build(): sys.exit(5)\n", "net.py"),
    ],
)
def test_bad_models(capsys: pytest.CaptureFixture[str], code: str, expected: str) -> None:
    Path("net.py").write_text(code)
    assert expected in refuse(capsys, model="net.py:build")


def test_bad_model_specs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Cannot read the model spec 'dem'" in refuse(capsys, model="dem")
    assert "There is no file 'nt.py'" in refuse(capsys, model="nt.py:build")
    assert "Did you mean" in refuse(capsys, model="torchvision:resnet5")
    assert "There is no checkpoint at 'w.pt'" in refuse(capsys, model="torchvision:resnet18@w.pt")


def test_pickled_code_needs_trust(capsys: pytest.CaptureFixture[str]) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (Path("was_here"),)

    torch.save({"x": Payload()}, "w.pt")
    assert "--trust" in refuse(capsys, model="torchvision:squeezenet1_1@w.pt")
    assert not Path("was_here").exists()


@pytest.mark.parametrize("out", ["square.png", "square.png/out", "/proc/nowhere", "y" * 300])
def test_bad_places(capsys: pytest.CaptureFixture[str], out: str) -> None:
    message = check_refusal(capsys, "explain", "square.png", "--model", "net.py:build", "--out", out, *FAST)
    assert "Cannot write to" in message


def test_absurd_input_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(TINY.replace("INPUT_SIZE = 8", "INPUT_SIZE = 10**9"))
    assert refuse(capsys, model="net.py:build")


def test_a_delta_that_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    norm = "x = x / x.square().sum((1, 2, 3), keepdim=True).sqrt()\n        "
    Path("net.py").write_text(TINY.replace("return self.linear", norm + "return self.linear"))
    assert refuse(capsys, "--method", "integrated_gradients:num_steps=4", model="net.py:build")


def test_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "No space left on device" in refuse(capsys, model="net.py:build")


STOPPED_AT = """
import importlib.abc, os, sys

class Stop(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))

from spadelens.cli.main import main
sys.meta_path.insert(0, Stop())
main(sys.argv[3:])
"""


def check_interrupted(process: subprocess.Popen[str], before: dict[str, bytes | None]) -> None:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2, error
    assert error.strip() == "Interrupted: nothing was written."  # click ends the line of the ^C first
    assert out == ""
    assert listing() == before


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["numpy", "torch._tensor", "PIL.Image", "captum.attr"])
def test_interrupts_during_imports(stop: signal.Signals, module: str) -> None:
    """Torch swallows what interrupts its import of NumPy."""
    before = listing()
    command = ["explain", "square.png", "--model", "net.py:build", "--out", "new/out", "--method", "saliency"]
    program = [sys.executable, "-c", STOPPED_AT, module, str(int(stop)), *command]
    check_interrupted(subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), before)


def catches_signals(process: subprocess.Popen[str]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see when signals are caught")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0, 0.7, 3])
def test_interrupts(stop: signal.Signals, seconds: float) -> None:
    before = listing()
    slow = ("--views", "20000", "--method", "occlusion:window=0.05")
    command = [PROGRAM, "explain", "square.png", "ring.png", "--model", "demo", "--out", "new/out", *slow]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not catches_signals(process):
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(stop)
    check_interrupted(process, before)


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("stage", ["views", "solve", "check", "attribute"])
def test_interrupts_within_each_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str, is_lost: bool
) -> None:
    from spadelens.cli import run as running
    from spadelens.tasks import explain as explaining

    Path("out").mkdir()
    Path("out/report.html").write_text("old")
    before, real = listing(), explaining.explain

    def interrupted(loaded: Any, subject: Any, settings: Any, progress: Any) -> Any:
        def show(name: str, done: int, total: int) -> None:
            progress(name, done, total)
            if name == stage and subject.name == "ring":
                with suppress(*[KeyboardInterrupt] * is_lost):
                    os.kill(os.getpid(), signal.SIGTERM)

        return real(loaded, subject, settings, show)

    monkeypatch.setattr(running, "explain", interrupted)
    assert explain("square.png", "ring.png", model="net.py:build") == 2
    assert capsys.readouterr().err.strip() == "Interrupted: nothing was written."
    assert listing() == before


def test_interrupts_that_come_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    from spadelens.output import folder

    real = folder._move

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)

    monkeypatch.setattr(folder, "_move", interrupted)
    assert explain("square.png", model="net.py:build") == 0
    assert read_report()


def test_two_runs_at_once(demo: LoadedModel) -> None:
    command = [PROGRAM, "explain", "square.png", "--model", "demo", "--out", "out", *FAST]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert error == b""
        assert process.returncode == 0
    read_report()
    assert Trace.load("out/square/trace.safetensors", demo.model)
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == ["report.html", "report.json", "square"]
    assert not [path for path in Path.cwd().iterdir() if path.name.startswith(".")]


def test_demo_on_a_plain_console() -> None:
    finished = subprocess.run(
        [PROGRAM, "demo"], capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "cp1252"}
    )
    assert finished.stderr.decode() == ""
    assert finished.returncode == 0
    report = read_report("spadelens-demo")
    assert report["command"].startswith("spadelens demo")
    assert [photo["name"] for photo in report["samples"]] == ["trojan", "clean"]
    assert all(photo["scores"] for photo in report["samples"])
    assert all(photo["is_prediction_kept"] for photo in report["samples"])


def test_a_reader_that_stops_early() -> None:
    """`spadelens ... | head -1`: no traceback."""
    command = f"{PROGRAM} explain square.png --model net.py:build --out out {' '.join(FAST)} | true"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in finished.stderr
    read_report()
