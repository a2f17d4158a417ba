"""Entry point of `visionloop-labeling`: says what to install when the extra is missing."""

import sys

from visionloop.entry_point import run


def main() -> None:
    """Runs the service; does not return."""
    sys.exit(run("visionloop-labeling", "labeling", "visionloop_labeling.app"))


if __name__ == "__main__":
    main()
