"""One unit, two things it answers to: the two circles of the paper's figure 3, densely and on two traces."""

import sys
from pathlib import Path

from spadelens.demo.circles import CIRCLES
from spadelens.reports.circles import draw_picture
from spadelens.tasks.circles import visualize_circles

result = visualize_circles(seed=0)
print(f"accuracy {result.accuracy:.2%}")
for panel in result.panels:
    shares = ", ".join(
        f"{panel.share(circle):.0%} in the {circle.name} (single ascents {panel.share_of_ends(circle):.0%})"
        for circle in CIRCLES
    )
    print(f"{panel.title}: visualizations {shares}")
if len(sys.argv) > 1:
    draw_picture(result, Path(sys.argv[1]))
