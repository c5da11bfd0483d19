"""The attribution methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spadelens.methods.deep_lift import DeepLift
from spadelens.methods.grad_cam import GradCam
from spadelens.methods.gradient_methods import (
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
)
from spadelens.methods.guided import GuidedBackprop, GuidedGradCam
from spadelens.methods.lime import Lime
from spadelens.methods.lrp import LRP
from spadelens.methods.method import Attribution, Method
from spadelens.methods.occlusion import Occlusion
from spadelens.methods.score_cam import ScoreCam

__all__ = [
    "LRP",
    "METHODS",
    "Attribution",
    "DeepLift",
    "GradCam",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "Lime",
    "Method",
    "Occlusion",
    "Saliency",
    "ScoreCam",
    "SmoothGrad",
]

METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        "saliency": Saliency,
        "smoothgrad": SmoothGrad,
        "input_x_gradient": InputXGradient,
        "integrated_gradients": IntegratedGradients,
        "gradient_shap": GradientShap,
        "deep_lift": DeepLift,
        "lrp": LRP,
        "guided_backprop": GuidedBackprop,
        "grad_cam": GradCam,
        "guided_grad_cam": GuidedGradCam,
        "occlusion": Occlusion,
        "lime": Lime,
        "score_cam": ScoreCam,
    }
)
