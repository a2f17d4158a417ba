"""TLS of the servers: a certificate, and the authorities whose clients may connect (mTLS).

The files are looked at with every handshake, so a renewed certificate (cert-manager, a mounted
secret) serves the next connection without a restart; connections that are open keep theirs. Three
`stat` calls is the price. What was read is used only when it fits together: while a file is being
replaced, or when its new content is broken, the certificate before keeps serving and the log says
so. Chains are PEM, the server's own certificate first.
"""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

import grpc

from visionloop.errors import ConfigurationError

log = logging.getLogger(__name__)

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Pems:
    """The content of the files at one moment, proved to fit together."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The files, and what of them serves now. Safe to use from any thread."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Raises ConfigurationError for files that cannot serve."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._seen = self._stamp()  # before reading: a change in between is seen later
        self.pems = self._read()
        self._context = self._loaded()

    def renew(self) -> None:
        """Takes what changed in the files, if it fits together."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            pems = self._read()
            context = self._loaded()
        except (ConfigurationError, OSError) as error:
            log.error("the certificate before keeps serving: %s", error)
            return
        if pems != self.pems:
            self.pems, self._context = pems, context
            log.info("a renewed certificate serves new connections")

    def for_grpc(self) -> grpc.ServerCredentials:
        """Credentials for `add_secure_port`. They look at the files within the handshakes."""
        given = self.pems

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self.renew()
            if self.pems is given:
                return None  # gRPC keeps what it has
            given = self.pems
            return _configuration(given)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given),
            renewed,  # type: ignore[arg-type]  # its stub does not know of None
            require_client_authentication=self._client_ca is not None,
        )

    def for_http(self) -> ssl.SSLContext:
        """A context for an asyncio server. Each handshake goes on with what serves then."""

        def renewed(connection: ssl.SSLObject, _name: str | None, _context: object) -> None:
            self.renew()
            connection.context = self._context

        door = self._loaded()
        door.sni_callback = renewed  # called for every client, whether it names a server or not
        return door

    def _stamp(self) -> Stamp:
        """What changes when a file does, following links (Kubernetes swaps a link)."""
        stats = [path.stat() for path in self._paths() if path.exists()]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _paths(self) -> tuple[Path, ...]:
        given = (self._certificate, self._key, self._client_ca)
        return tuple(path for path in given if path is not None)

    def _read(self) -> Pems:
        """The files' bytes, proved. Raises ConfigurationError."""
        pems = self._bytes()
        self._loaded()
        if self._bytes() != pems:
            # The next handshake sees another stamp, since the files changed after ours was taken.
            raise ConfigurationError("the certificate files were changed while they were read")
        return pems

    def _bytes(self) -> Pems:
        client_ca = self._client_ca
        return Pems(
            _content(self._certificate, "certificate"),
            _content(self._key, "key"),
            _content(client_ca, "client-ca") if client_ca is not None else None,
        )

    def _loaded(self) -> ssl.SSLContext:
        """What OpenSSL makes of the files. Raises ConfigurationError that names the wrong one."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"--tls-certificate {self._certificate} and --tls-key {self._key} do not work "
                f"together: {_words(error)}",
                field="tls_certificate",
            ) from error
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(
                    f"--tls-client-ca {self._client_ca} holds no certificates: {_words(error)}",
                    field="tls_client_ca",
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pems.key, pems.certificate)], root_certificates=pems.client_ca
    )


def _content(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"--tls-{flag} {path} cannot be read: {error.strerror}",
            field=f"tls_{flag.replace('-', '_')}",
        ) from error


def _no_password() -> NoReturn:
    """OpenSSL would ask on the terminal, for ever in a pod."""
    raise ConfigurationError(
        "--tls-key is encrypted; give a key without a password, in a file only the server can read",
        field="tls_key",
    )


def _words(error: OSError) -> str:
    """OpenSSL's word for it, without its source lines."""
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return str(reason).replace("_", " ").lower()
