"""`python -m visionloop.cli`, the same as `visionloop`."""

import sys

from visionloop.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
