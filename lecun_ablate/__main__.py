"""`python -m lecun_ablate`, and the command `lecun-ablate`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; Ctrl-C also ends it quietly while it is still being imported."""
    try:
        from lecun_ablate.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
