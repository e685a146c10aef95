"""Screenshots of a report, as docs/ shows them: wide and narrow, light and dark. It needs Chromium.

python demo/screenshots.py artifacts/report/index.html docs
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import click

BROWSERS = ("chromium", "google-chrome")
SIZES = {"wide": (1280, 1700), "narrow": (400, 1700)}  # pixels of the part that is shown
THEMES = {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files")
# A frame may be narrower than a browser's own window.
WINDOW = (
    '<body style="margin: 0 auto; width: {width}px; background: #888">'
    '<iframe src="{page}" width="{width}" height="{height}" style="border: 0"></iframe>'
)


@click.command(help=__doc__)
@click.argument("page", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(page: Path, folder: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise click.ClickException("no Chromium: apt-get install chromium")
    folder.mkdir(parents=True, exist_ok=True)
    for width, (columns, rows) in SIZES.items():
        for theme, options in THEMES.items():
            take(browser, options, page.absolute(), columns, rows, folder / f"report-{width}-{theme}.png")


def take(browser: str, options: tuple[str, ...], page: Path, columns: int, rows: int, file: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        window = Path(scratch) / "window.html"
        window.write_text(WINDOW.format(page=page.as_uri(), width=columns, height=rows))
        size, output = f"--window-size={max(columns, 500)},{rows}", f"--screenshot={file.absolute()}"
        command = [browser, *HEADLESS, *options, size, output, window.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
