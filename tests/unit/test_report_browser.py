"""The report in a real browser, where this machine has one: it fits its window, and is readable in both themes."""

import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import OF_RESULT, PLACE, artifacts, page_of, settings  # noqa: F401

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom")
THEMES = {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}
# A window of any width, which a browser's own is not, and as its title what the page inside shows.
WINDOW = """<iframe src="index.html" width="{width}" height="900" style="border: 0"></iframe><script>
onload = () => {{
  const page = frames[0].document, style = frames[0].getComputedStyle(page.body)
  document.title = [page.documentElement.scrollWidth, style.color, style.backgroundColor].join(";")
}}
</script>"""


@pytest.fixture
def folder(run_script, settings, artifacts) -> Path:  # noqa: F811
    page_of(run_script, settings, artifacts / "report" / "index.html")
    return artifacts / "report"


def brightness(colour: str) -> float:
    return sum(float(part) for part in colour.partition("(")[2].strip(")").split(",")[:3]) / 3


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_its_window_and_is_readable(folder, width, theme):
    window = folder / "window.html"
    window.write_text(WINDOW.format(width=width))
    command = [BROWSER, *HEADLESS, *THEMES[theme], "--window-size=1400,1000", f"file://{window}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    needed, ink, paper = shown.partition("<title>")[2].partition("</title>")[0].split(";")
    assert int(needed) <= width
    assert abs(brightness(ink) - brightness(paper)) > 150
    assert (brightness(paper) > 128) == (theme == "light")
