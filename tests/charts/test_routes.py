"""How long a Gateway waits for us: what the routes say of it."""

import pytest
from support.charts import VALUES, Object, objects_of, one_of, template

pytestmark = pytest.mark.usefixtures("helm_program")
CHARTS = ("inference", "labeling-ingest")


def rule(chart: str, kind: str, *flags: str) -> Object:
    """The only rule of the chart's route of a kind."""
    way = {"HTTPRoute": "httpRoute", "GRPCRoute": "grpcRoute"}[kind]
    on = f"--set={way}.enabled=true,{way}.parentRefs[0].name=public,networkPolicy.enabled=false"
    text = template(chart, f"--values={VALUES / chart / 'minimal.yaml'}", on, *flags)
    [found] = one_of(objects_of(text), kind, f"demo-{chart}")["spec"]["rules"]
    return found


def test_a_gateway_waits_for_the_upload_of_an_import_as_long_as_the_service_does() -> None:
    assert rule("labeling-ingest", "HTTPRoute")["timeouts"] == {
        "request": "0s",
        "backendRequest": "0s",
    }


def test_a_gateway_waits_for_an_answer_as_long_as_a_caller_may_ask_for() -> None:
    from visionloop_inference.http_front_end import LONGEST_SECONDS
    from visionloop_inference.http_message import BODY_SECONDS

    minutes = (BODY_SECONDS + LONGEST_SECONDS) / 60
    for waited in rule("inference", "HTTPRoute")["timeouts"].values():
        assert waited == f"{minutes:g}m"


@pytest.mark.parametrize("chart", CHARTS)
def test_timeouts_of_ones_own_and_none(chart: str) -> None:
    own = rule(chart, "HTTPRoute", "--set=httpRoute.timeouts.request=1h30m")
    assert own["timeouts"]["request"] == "1h30m"
    none = "--set=httpRoute.timeouts.request=,httpRoute.timeouts.backendRequest="
    assert "timeouts" not in rule(chart, "HTTPRoute", none)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_route_for_grpc_has_none_for_its_kind_knows_none(chart: str) -> None:
    assert "timeouts" not in rule(chart, "GRPCRoute")
