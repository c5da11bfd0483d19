"""Draw docs/images/report.png: the report of the demo as a browser shows it. Needs chromium.

python scripts/draw_report_picture.py [chromium]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "report.png"
WIDTH_PX, HEIGHT_PX = 1100, 1600
COLORS = 256


def main() -> None:
    """Run the demo, take a picture of its report, and reduce the picture to few colors."""
    browser = sys.argv[1] if len(sys.argv) > 1 else "chromium"
    with tempfile.TemporaryDirectory() as folder:
        results, picture = Path(folder, "demo"), Path(folder, "report.png")
        subprocess.run([sys.executable, "-m", "spadelens", "demo", "--out", str(results)], check=True)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"]
        size = f"--window-size={WIDTH_PX},{HEIGHT_PX}"
        page = (results / "report.html").as_uri()
        subprocess.run([browser, *options, size, f"--screenshot={picture}", page], check=True)
        with Image.open(picture) as image:
            image.convert("RGB").quantize(COLORS).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
