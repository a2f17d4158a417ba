"""Who asks a second S3 server, and where it is, beside the one that the AWS_* variables name.

A backup wants that: the key that writes it must not be the one that it protects against.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class S3Account:
    """What is empty comes from the AWS_* variables or the pod's identity, as for any store."""

    endpoint: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    ca_bundle: str = ""  # path of the file with the authorities of the server's certificate

    @classmethod
    def from_environment(
        cls, prefix: str, environment: Mapping[str, str] = os.environ
    ) -> "S3Account":
        """By the AWS variables' names with `prefix` in front, as BACKUP_AWS_ACCESS_KEY_ID."""
        names = (
            "AWS_ENDPOINT_URL_S3",
            "AWS_REGION",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_CA_BUNDLE",
        )
        return cls(*(environment.get(prefix + name, "") for name in names))

    def client_settings(self) -> dict[str, str]:
        """What boto3's `client` is told."""
        settings = {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "verify": self.ca_bundle,
        }
        return {name: value for name, value in settings.items() if value}
