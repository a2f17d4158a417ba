"""Who calls: people and programs with roles.

Without accounts (a service on loopback) everybody who reaches it is this machine's administrator.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What somebody may do; each role may do all that those before it may."""

    SERVICE = "service"  # programs: send images and labels, read exports and snapshots
    LABELLER = "labeller"  # people: label, skip, flag
    REVIEWER = "reviewer"  # decide disputes, retract, change classes
    ADMIN = "admin"  # datasets, imports, quarantine, accounts


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from; `name` is the author of what it says."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether the caller has at least this role."""
        order = list(Role)
        return order.index(self.role) >= order.index(role)


# Who everybody is on a service without accounts.
LOCAL: Final = Caller("local", Role.ADMIN)
