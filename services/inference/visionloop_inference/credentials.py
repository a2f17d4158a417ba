"""TLS of this server: what its settings name, as gRPC and asyncio take it."""

import grpc

from visionloop.certificates import Certificates
from visionloop_inference.settings import Settings


def certificates(settings: Settings) -> Certificates | None:
    """The certificates that the settings name; None without TLS. Raises ConfigurationError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What the gRPC port takes; None without TLS. Raises ConfigurationError."""
    found = certificates(settings)
    return None if found is None else found.for_grpc()
