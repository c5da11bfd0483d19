"""Weights of users as training scripts save them, and specs that are almost right."""

import socket
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from spadelens.errors import ModelSpecError
from spadelens.models import load_model
from spadelens.models.sources import network
from spadelens.models.sources.checkpoints import under_names_of
from spadelens.models.sources.network import is_reachable, quick_hub

SPEC = "torchvision:squeezenet1_1"


@pytest.fixture(scope="module")
def mine() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(num_classes=7)


def assert_loaded(spec: str, mine: nn.Module) -> None:
    loaded = load_model(spec, "cpu", kind="photo")
    for name, value in mine.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert loaded.class_names == ()


def test_a_head_of_another_size_is_adapted(mine: nn.Module, tmp_path: Path) -> None:
    save_file(mine.state_dict(), tmp_path / "w.safetensors")
    assert_loaded(f"{SPEC}@{tmp_path / 'w.safetensors'}", mine)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module.", "net.backbone."])
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model",), ("model_state_dict",), ("checkpoint", "net")])
def test_the_obvious_is_taken(mine: nn.Module, tmp_path: Path, prefix: str, keys: tuple[str, ...]) -> None:
    keys = tuple("model" if key == "checkpoint" else key for key in keys)
    state: dict[str, object] = {f"{prefix}{name}": value for name, value in mine.state_dict().items()}
    if keys:
        state["criterion.weight"] = torch.ones(3)
    for key in reversed(keys):
        state = {"epoch": 3, key: state}
    torch.save(state, tmp_path / "w.pt")
    assert_loaded(f"{SPEC}@{tmp_path / 'w.pt'}", mine)


def test_names_that_do_not_fit_stay(mine: nn.Module) -> None:
    state = {"module.other": torch.ones(1)}
    assert under_names_of(mine.state_dict(), state) is state


def refused(spec: str) -> str:
    with pytest.raises(ModelSpecError) as caught:
        load_model(spec, "cpu")
    return str(caught.value)


def test_specs_that_are_almost_right(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise RuntimeError('run')\ndef _hidden(): ...\ndef build(): ...\n")
    assert refused(f"{tmp_path / 'net.py'}").endswith("net.py:FACTORY. It defines: build.")
    assert refused("nowhere.py").endswith("nowhere.py:FACTORY.")
    assert "Did you mean 'torchvision:resnet50'" in refused("resnet50")
    assert "segmentation" in refused("torchvision:fcn_resnet50")
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "Known: ." not in refused(f"{tmp_path / 'empty.py'}:build") + refused(f"{tmp_path / 'empty.py'}:")


def test_the_hub_is_asked_once_and_its_settings_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    for answer in (True, False):
        monkeypatch.setattr(network, "is_reachable", lambda _, answer=answer: answer)
        with quick_hub():
            assert (before or not answer) == constants.HF_HUB_OFFLINE
        assert before == constants.HF_HUB_OFFLINE


def test_whether_a_host_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert is_reachable(url)
        monkeypatch.setattr(network, "getproxies", lambda: {"https": url})
        assert is_reachable("https://nowhere.invalid")
    assert not is_reachable("https://nowhere.invalid")
