# The public names, read at run time too.
from .ascent import Ascent as Ascent
from .objectives import (
    Channel as Channel,
    ClassScore as ClassScore,
    Difference as Difference,
    Direction as Direction,
    Neuron as Neuron,
    Objective as Objective,
    parse_objective as parse_objective,
)
from .parameterizations import Direct as Direct, Fourier as Fourier, Maco as Maco, Parameterization as Parameterization
from .transformations import Transformations as Transformations
from .visualization import (
    Visualization as Visualization,
    respond as respond,
    visualize as visualize,
)
