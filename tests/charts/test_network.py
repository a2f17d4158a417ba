"""Who reaches which port, and where programs may go: what the NetworkPolicies say."""

import json

import pytest
from support.charts import VALUES, Object, objects_of, one_of, template

pytestmark = pytest.mark.usefixtures("helm_program")
EVERYWHERE = {"namespaceSelector": {}}
HERE = {"podSelector": {}}
ROUTE = "--set={0}.enabled=true,{0}.parentRefs[0].name=public"
SECURED = "insecure=false,tls.mode=secret,tls.existingSecret=t,auth.existingSecret=a"


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
    assert callers(policy("inference", f"--set={SECURED}"), 8002) == [EVERYWHERE]
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kps"}}}
    named = f"--set-json=networkPolicy.metricsFrom=[{json.dumps(prometheus)}]"
    assert callers(policy("inference", named), 8002) == [HERE, prometheus]


@pytest.mark.parametrize("chart", ["inference", "labeling-ingest", "training"])
def test_a_store_behind_a_service_that_maps_ports_is_reached(chart: str) -> None:
    """Policies are applied to the pod's port, after the Service's was translated."""
    store = ["--set=global.store.endpoint=https://minio.minio.svc,networkPolicy.storePort=9000"]
    tenant = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "minio"}}}
    store.append(f"--set-json=networkPolicy.storePeers=[{json.dumps(tenant)}]")
    spec = policy(chart, *store)
    assert goals(spec, 443) == goals(spec, 9000) == [tenant]
    assert goals(policy(chart), 9000) == []


@pytest.mark.parametrize("chart", ["inference", "labeling-ingest", "training"])
def test_a_pod_without_keys_may_ask_for_those_of_its_identity(chart: str) -> None:
    blocks = [one["ipBlock"]["cidr"] for one in goals(policy(chart), 80)]
    assert blocks == ["169.254.170.23/32", "fd00:ec2::23/128"]
    assert goals(policy(chart, "--set=storeSecret=keys"), 80) == []


@pytest.mark.parametrize(
    ("chart", "flags", "opened", "closed"),
    [
        ("inference", ROUTE.format("grpcRoute"), 8001, 8002),
        ("inference", f"{ROUTE.format('httpRoute')},{SECURED}", 8003, 8001),
        ("inference", "--set=ingress.enabled=true,ingress.hosts={a.example}", 8001, 8002),
        ("labeling-ingest", ROUTE.format("httpRoute"), 8080, 8081),
        ("labeling-ingest", ROUTE.format("grpcRoute"), 8081, 8080),
        ("labeling-ingest", "--set=ingress.enabled=true,ingress.hosts={a.example}", 8080, 8081),
    ],
)
def test_a_way_in_opens_its_own_port_alone(
    chart: str, flags: str, opened: int, closed: int
) -> None:
    """A gateway's pods stand where the chart does not know; the other port stays with our own."""
    spec = policy(chart, flags)
    assert {} in callers(spec, opened)
    assert callers(spec, closed) == [HERE]
    apps = {"podSelector": {"matchLabels": {"may": "call"}}}
    named = policy(chart, flags, f"--set-json=networkPolicy.from=[{json.dumps(apps)}]")
    assert {} not in callers(named, opened)


@pytest.mark.parametrize("chart", ["inference", "labeling-ingest"])
def test_certificates_have_every_name_that_a_service_is_called_by(chart: str) -> None:
    tls = "--set=tls.mode=cert-manager,tls.issuerRef.name=ca"
    text = template(chart, f"--values={VALUES / chart / 'minimal.yaml'}", tls)
    names = set(one_of(objects_of(text), "Certificate")["spec"]["dnsNames"])
    for service in (f"demo-{chart}", f"demo-{chart}-headless"):
        for domain in ("", ".vision", ".vision.svc", ".vision.svc.cluster.local"):
            assert service + domain in names
