"""Who reaches which port, and where programs may go: what the NetworkPolicies say."""

import pytest
from support.charts import NAMESPACE, VALUES, Object, objects_of, one_of, template

pytestmark = pytest.mark.usefixtures("helm_program")
EVERYWHERE = {"namespaceSelector": {}}
HERE = {"podSelector": {}}


def policy(chart: str, *flags: str, name: str = "") -> Object:
    text = template(chart, f"--values={VALUES / chart / 'minimal.yaml'}", *flags)
    return one_of(objects_of(text), "NetworkPolicy", name or f"demo-{chart}")["spec"]


def callers(spec: Object, port: int) -> list[Object]:
    """The peers that reach a port; [{}] is everybody."""
    return [
        peer
        for rule in spec["ingress"]
        if port in {one["port"] for one in rule["ports"]}
        for peer in rule.get("from", [{}])
    ]


def goals(spec: Object, port: int) -> list[Object]:
    """The peers that are reached on a port; [{}] is everywhere."""
    return [
        peer
        for rule in spec["egress"]
        if port in {one["port"] for one in rule.get("ports", [])}
        for peer in rule.get("to", [{}])
    ]


def test_without_tls_or_tokens_the_port_of_the_metrics_is_not_open_to_the_cluster() -> None:
    """It recognises images, too: POST /v1/recognize."""
    assert callers(policy("inference"), 8002) == [HERE]
    secured = "--set=insecure=false,tls.mode=secret,tls.existingSecret=t,auth.existingSecret=a"
    assert callers(policy("inference", secured), 8002) == [EVERYWHERE]
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kps"}}}
    named = "--set-json=networkPolicy.metricsFrom=[" + str(prometheus).replace("'", '"') + "]"
    assert callers(policy("inference", named), 8002) == [HERE, prometheus]
