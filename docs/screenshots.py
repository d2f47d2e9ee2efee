"""Take the pictures of a report that docs/report.md shows; needs chromium and chromedriver.

python docs/screenshots.py results/NAME/report.html
"""

import base64
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

FOLDER = Path(__file__).parent / "images"
PAPER_MARGIN = 53
PICTURES = {
    "report": {"width": 1280, "height": 1900},
    "report-dark": {"width": 1280, "height": 1900, "colours": "dark"},
    "report-narrow": {"width": 390, "height": 2400},
    "report-print": {"width": 688, "height": 2034, "media": "print"},
}
"""In CSS pixels: paper is A4 without its margins, two pages of it."""


def take(browser: Any, page: Path, width: int, height: int, colours: str = "light", media: str = "") -> Image.Image:
    """The page from its top down."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    features = [{"name": "prefers-color-scheme", "value": colours}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get(page.absolute().as_uri())
    drawn = "return document.documentElement.dataset.charts"
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(drawn) == "drawn")
    if media:
        browser.execute_script(f"dispatchEvent(new Event('before{media}'))")
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    return ImageOps.expand(picture, PAPER_MARGIN, "white") if media else picture


def main(page: Path) -> None:
    """Write every picture, in 256 colours."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        for name, how in PICTURES.items():
            picture = take(browser, page, **how)  # type: ignore[arg-type]
            path = FOLDER / f"{name}.png"
            picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size // 1000} kB")
    finally:
        browser.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
