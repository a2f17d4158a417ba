"""`python -m visionloop_training` is `visionloop-train`."""

import sys

from visionloop_training.app import main

if __name__ == "__main__":
    sys.exit(main())
