# The public names, read at run time too.
from .deep_lift import DeepLift as DeepLift
from .grad_cam import GradCam as GradCam
from .gradient_methods import (
    GradientShap as GradientShap,
    InputXGradient as InputXGradient,
    IntegratedGradients as IntegratedGradients,
    Saliency as Saliency,
    SmoothGrad as SmoothGrad,
)
from .guided import GuidedBackprop as GuidedBackprop, GuidedGradCam as GuidedGradCam
from .lime import Lime as Lime
from .lrp import LRP as LRP
from .method import Attribution as Attribution, Method as Method
from .occlusion import Occlusion as Occlusion
from .registry import METHODS as METHODS
from .score_cam import ScoreCam as ScoreCam
