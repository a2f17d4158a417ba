"""Image recognition that keeps learning: what the programs share, and the client that apps import.

The bare install brings grpcio and protobuf alone, which `visionloop.client` and
`visionloop.errors` need; the other modules come to life with a program's extra.
"""

__version__ = "0.1.0"
