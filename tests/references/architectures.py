"""Small instances of common architectures, with random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vgg import VGG, make_layers

NUM_CLASSES = 5
IMAGE, TOKENS = (3, 64, 64), (7, 32)
_TEXT = {"vocab_size": 50, "num_labels": NUM_CLASSES}
_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


class Scores(nn.Module):
    """Returns the logits of a model of transformers that is given its input by name."""

    def __init__(self, model: nn.Module, argument: str) -> None:
        super().__init__()
        self.model, self.argument = model, argument

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(**{self.argument: inputs}).logits


class Encoder(nn.Module):
    """torch's own encoder, tokens in the first axis or in the second."""

    def __init__(self, is_batch_first: bool) -> None:
        super().__init__()
        self.is_batch_first = is_batch_first
        layer = nn.TransformerEncoderLayer(32, 2, 48, batch_first=is_batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, NUM_CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.is_batch_first:
            return self.head(self.encoder(tokens).mean(1))
        return self.head(self.encoder(tokens.transpose(0, 1)).mean(0))


def _torchvision(name: str, **settings: Any) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, num_classes=NUM_CLASSES, **settings)


def _vgg(has_norms: bool) -> nn.Module:
    """VGG-11 at a quarter of its width, and without the classifier's 120 million weights."""
    widths = [16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"]
    model = VGG(make_layers(widths, has_norms), NUM_CLASSES, init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(nn.Linear(128, 32), nn.ReLU(inplace=True), nn.Linear(32, NUM_CLASSES))
    return model


def _efficientnet() -> nn.Module:
    """EfficientNet-B0 at half its width, with at most two blocks a stage."""
    stages = [
        (1, 3, 1, 32, 16, 1),
        (6, 3, 2, 16, 24, 1),
        (6, 5, 2, 24, 40, 1),
        (6, 3, 2, 40, 80, 2),
        (6, 5, 1, 80, 112, 1),
        (6, 5, 2, 112, 192, 2),
        (6, 3, 1, 192, 320, 1),
    ]  # expansion, kernel, stride, channels in and out, blocks
    blocks = [MBConvConfig(*stage, width_mult=0.5) for stage in stages]
    return EfficientNet(blocks, dropout=0.2, num_classes=NUM_CLASSES, last_channel=160)


def _convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], layer_scale=1.0, num_classes=NUM_CLASSES)


def _vit() -> nn.Module:
    sizes = {"image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    model = torchvision.models.VisionTransformer(**sizes, num_classes=NUM_CLASSES)
    nn.init.normal_(model.heads.head.weight)  # zero as torchvision makes it
    return model


def _swin(**settings: Any) -> nn.Module:
    sizes = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
    return torchvision.models.SwinTransformer(**sizes, num_classes=NUM_CLASSES, **settings)


def _timm(name: str, **settings: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    made_for = {"input_size": IMAGE}
    return timm.create_model(name, num_classes=NUM_CLASSES, pretrained_cfg_overlay=made_for, **settings)


def _transformers(kind: str, argument: str = "inputs_embeds", **settings: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    task = "ForImageClassification" if argument == "pixel_values" else "ForSequenceClassification"
    config = getattr(transformers, f"{kind}Config")(**settings)
    return Scores(getattr(transformers, f"{kind}{task}")(config), argument)


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (lambda: _torchvision("resnet18"), IMAGE),
    "vgg11": (lambda: _vgg(has_norms=False), IMAGE),
    "vgg11_bn": (lambda: _vgg(has_norms=True), IMAGE),
    "mobilenet_v2": (lambda: _torchvision("mobilenet_v2", width_mult=0.5), IMAGE),
    "mobilenet_v3_small": (lambda: _torchvision("mobilenet_v3_small"), IMAGE),
    "efficientnet_b0": (_efficientnet, IMAGE),
    "convnext": (_convnext, IMAGE),
    "vit": (_vit, IMAGE),
    "swin": (_swin, IMAGE),
    "swin_v2": (lambda: _swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2), IMAGE),
    "timm_vit": (lambda: _timm("test_vit", img_size=64), IMAGE),
    "timm_beit": (
        lambda: _timm(
            "beit_base_patch16_224", img_size=64, patch_size=16, depth=2, embed_dim=32, num_heads=2, init_values=1.0
        ),
        IMAGE,
    ),
    "timm_convnext": (lambda: _timm("test_convnext", ls_init_value=1.0), IMAGE),
    "timm_efficientnet": (lambda: _timm("test_efficientnet"), IMAGE),
    "timm_mobilenet_v1": (lambda: _timm("mobilenetv1_100"), IMAGE),
    "hf_resnet": (
        lambda: _transformers(
            "ResNet", "pixel_values", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=NUM_CLASSES
        ),
        IMAGE,
    ),
    "hf_convnext": (
        lambda: _transformers(
            "ConvNext",
            "pixel_values",
            hidden_sizes=[8, 16, 16, 32],
            depths=[1, 1, 1, 1],
            layer_scale_init_value=1.0,
            num_labels=NUM_CLASSES,
        ),
        IMAGE,
    ),
    "hf_vit": (
        lambda: _transformers("ViT", "pixel_values", image_size=64, patch_size=16, num_labels=NUM_CLASSES, **_WIDTHS),
        IMAGE,
    ),
    "hf_bert": (lambda: _transformers("Bert", **_TEXT, **_WIDTHS), TOKENS),
    "hf_distilbert": (
        lambda: _transformers("DistilBert", **_TEXT, dim=32, n_layers=2, n_heads=2, hidden_dim=48),
        TOKENS,
    ),
    "hf_albert": (lambda: _transformers("Albert", **_TEXT, **_WIDTHS, embedding_size=32), TOKENS),
    "hf_gpt2": (
        lambda: _transformers(
            "GPT2", **_TEXT, n_embd=32, n_layer=2, n_head=2, pad_token_id=0, bos_token_id=1, eos_token_id=1
        ),
        TOKENS,
    ),
    "encoder": (lambda: Encoder(is_batch_first=True), TOKENS),
    "encoder_tokens_first": (lambda: Encoder(is_batch_first=False), TOKENS),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return a model in evaluation mode, and a sample for it."""
    make, shape = ARCHITECTURES[name]
    torch.manual_seed(seed)
    model = make()
    _estimate_statistics(model, shape)
    return model.eval(), torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))


def _estimate_statistics(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Let batch normalizations hold the statistics of noise: with those that they begin with, signals die out."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    model.eval()
    for layer in layers:
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(16, *shape))
