"""What keeps a GitOps tool from coming to rest: a render that is not what the API server keeps.

Where a list is one value for the API server (every list of a CRD that names no keys), a default
that it fills into an entry makes the whole list another one than the chart's, and Argo CD reports a
difference that no sync ends. So the charts write such defaults out.
"""

import pytest
from support.charts import Object, ValueSet, every_value_set, rendered, value_sets

pytestmark = pytest.mark.usefixtures("helm_program")
PARENT = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
BACKEND = {"group": "", "kind": "Service", "weight": 1}
REMOTE = {"conversionStrategy": "Default", "decodingStrategy": "None", "metadataPolicy": "None"}
ROUTES = ("GRPCRoute", "HTTPRoute")


def entries(item: Object) -> list[tuple[Object, Object]]:
    """Entries of lists, each with what Gateway API or external-secrets would fill into it."""
    spec = item.get("spec", {})
    if item["kind"] in ROUTES:
        backends = [one for rule in spec["rules"] for one in rule["backendRefs"]]
        return [(one, PARENT) for one in spec["parentRefs"]] + [(one, BACKEND) for one in backends]
    if item["kind"] == "ExternalSecret":
        return [(one["remoteRef"], REMOTE) for one in spec["data"]]
    return []


@every_value_set
def test_defaults_within_lists_are_written_out(values: ValueSet) -> None:
    for item in rendered(values):
        for entry, defaults in entries(item):
            assert defaults.items() <= entry.items(), f"{item['kind']}: {entry}"
        if item["kind"] == "HTTPRoute":
            assert all("matches" in rule for rule in item["spec"]["rules"])


def test_there_are_such_lists() -> None:
    kinds = {item["kind"] for values in value_sets() for item in rendered(values) if entries(item)}
    assert kinds == {*ROUTES, "ExternalSecret"}
