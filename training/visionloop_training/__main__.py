"""Entry point of `visionloop-train`: says what to install when the extra is missing."""

import sys

from visionloop.entry_point import run


def main() -> None:
    """Runs one training job; does not return."""
    sys.exit(run("visionloop-train", "training", "visionloop_training.app"))


if __name__ == "__main__":
    main()
