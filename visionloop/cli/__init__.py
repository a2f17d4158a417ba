"""The command `visionloop`: run the suite, feed it, ask it, and steer its models.

It opens fast and works on the bare install: each verb's module, and the libraries it needs, are
imported only when the verb runs.
"""

from visionloop.cli.main import main

__all__ = ["main"]
