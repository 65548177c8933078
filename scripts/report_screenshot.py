"""Take a screenshot of a report: python scripts/report_screenshot.py REPORT.html PICTURE.png

Opens the page in headless Chromium, light or dark, with the given width and height, and writes a
PNG. The README's picture has the defaults.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
]


def main() -> int:
    """Take the screenshot and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument(
        "--width", type=int, default=1100, help="in pixels (default: 1100; a phone: 390)"
    )
    parser.add_argument("--height", type=int, default=1400, help="in pixels (default: 1400)")
    parser.add_argument("--dark", action="store_true", help="use the dark colour scheme")
    arguments = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or not arguments.page.is_file():
        print(
            f"expected chromium to be installed, and a report at {arguments.page}", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        subprocess.run(
            [
                browser,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--screenshot={arguments.picture.resolve()}",
                f"--window-size={arguments.width},{arguments.height}",
                f"--blink-settings=preferredColorScheme={0 if arguments.dark else 1}",
                arguments.page.resolve().as_uri(),
            ],
            check=True,
            timeout=120,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return 0 if arguments.picture.is_file() else 1


if __name__ == "__main__":
    sys.exit(main())
