"""Photograph a report in a browser: python scripts/report_screenshot.py REPORT.html PICTURE.png

Opens the page in headless Chromium, light or dark, as wide and high as asked, and writes a PNG. The
README's picture: --width 1100 --height 1400.
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
    """Take the picture, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1100, help="390 is a phone")
    parser.add_argument("--height", type=int, default=1400)
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or not arguments.page.is_file():
        print("needs chromium, and the page of a report", file=sys.stderr)
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
