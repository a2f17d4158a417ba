"""Entry point of `visionloop-inference`: says what to install when the extra is missing."""

import sys

from visionloop.entry_point import run


def main() -> None:
    """Runs the service; does not return."""
    sys.exit(run("visionloop-inference", "inference", "visionloop_inference.app"))


if __name__ == "__main__":
    main()
