"""What `spadelens explain` cannot do is one sentence, and nothing is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from references.commands import FAST, TINY, check_refusal, explain, listing, refuse, run

pytestmark = pytest.mark.usefixtures("workplace")
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
        (("--target", "ring - rng"), "Unknown class 'rng'. Did you mean 'ring'?"),
        (("--target", "ring - "), "expected a class on both sides of the minus"),
        (("--target", "ring - star", "--versus", "arrow"), "with a third class, 'arrow'"),
        (("--candidate", "none", "--candidate", "lrp"), "give the candidate 'none' alone"),
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


def test_which_of_several_samples_fails(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("black.png")
    fails = "return self.linear(self.second(self.first(x)).mean((2, 3))) * (1 if x.mean() > -1.5 else float('nan'))"
    Path("net.py").write_text(FORWARD.format(fails))
    arguments = ("explain", "square.png", "black.png", "--model", "net.py:build", "--out", "out", *FAST)
    assert "Cannot explain 'black.png': The model returned scores that" in check_refusal(capsys, *arguments)


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


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """2: what was given cannot be used; 1: it could, and failed. `test_interrupts` has 130."""
    assert run("explain", "--modle", "demo") == 2
    assert explain("square.png", "--method", "salency") == 2
    assert explain("missing.png") == 2
    assert explain("square.png", model="nowhere.py:build") == 2
    assert explain("square.png", "--device", "fpga") == 2
    Path("net.py").write_text(FORWARD.format("return self.linear(self.first(x).mean((2, 3))) * float('nan')"))
    assert explain("square.png", model="net.py:build") == 1
    assert explain("square.png", out="square.png") == 1
    capsys.readouterr()
