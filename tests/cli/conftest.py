"""Where the command line is driven as a person drives it."""

from pathlib import Path

import pytest
from PIL import Image
from references.commands import TINY

from spadelens.demo.images import draw_image


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in, with two photos and a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Image.fromarray(draw_image(2, 77).pixels).save("square.png")
    Image.fromarray(draw_image(1, 78).pixels).save("ring.png")
    Path("net.py").write_text(TINY)
    return tmp_path
