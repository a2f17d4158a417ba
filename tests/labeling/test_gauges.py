"""What /metrics says of stored data, of requests and of people."""

import pytest
from support.labeling_site import open_site, password_of
from support.pictures import noise

from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling import gauges
from visionloop_labeling.labels import AuthorKind

pytestmark = pytest.mark.anyio


def value(metric, *labels: str) -> float:
    return values()[metric.metric.name].get(labels, [0.0])[0]


async def test_gauges_tell_what_is_stored(tmp_path, anyio_backend, monkeypatch) -> None:
    async with open_site(tmp_path) as site:
        monkeypatch.setattr(gauges, "REST", 0.0)
        async with site.client(site.token("root")) as client:
            await client.post("/v1/datasets", json={"name": "gauged"})
            came = value(metrics.INGEST_IMAGES, "http", "accepted")
            for number, label in enumerate(["a", "a", "a", "b", None]):
                fields = {"label": label} if label else {}
                kind = {"author_kind": AuthorKind.IMPORT.value}
                answer = await client.post(
                    "/v1/datasets/gauged/images",
                    data={**fields, **kind},
                    files={"file": noise(number)},
                )
                assert answer.status_code == 201
            assert value(metrics.INGEST_IMAGES, "http", "accepted") == came + 5
            text = (await client.get("/metrics")).text
            assert 'visionloop_queue_images{dataset="gauged",state="open"} 1.0' in text
            assert value(metrics.QUEUE_IMAGES, "gauged", "labelled") == 4
            assert value(metrics.QUEUE_OLDEST_SECONDS, "gauged") > 0
            assert value(metrics.DATASET_IMAGES, "gauged", "unassigned") == 1
            assert value(metrics.CLASS_IMBALANCE, "gauged") == 3
            assert value(metrics.LABELS_SINCE_SNAPSHOT, "gauged") == 4
            assert value(metrics.QUALITY_FLAGS, "gauged", "dark") == 0
            assert value(metrics.DATABASE_CONNECTIONS, "limit") > 1
            assert ("gauged",) not in values()["visionloop_snapshot_age_seconds"]
            assert (await client.post("/v1/datasets/gauged/snapshots")).status_code == 200
            await client.get("/metrics")
            assert value(metrics.LABELS_SINCE_SNAPSHOT, "gauged") == 0
            assert value(metrics.SNAPSHOT_AGE_SECONDS, "gauged") >= 0


def test_what_takes_long_to_count_is_left_alone_for_longer(core, monkeypatch) -> None:
    stored = gauges.StoredGauges(core.database, core.store)
    counted = []
    monkeypatch.setattr(gauges, "_queue", lambda *_: counted.append(1))
    monkeypatch.setattr(gauges, "QUICK_SECONDS", 3600.0)
    for _ in range(3):
        stored.measure()
    assert len(counted) == 3
    monkeypatch.setattr(gauges, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(gauges, "REST", 1e9)
    for _ in range(3):
        stored.measure()
    assert len(counted) == 4


async def test_requests_are_counted_by_template(tmp_path, anyio_backend) -> None:
    routes = metrics.HTTP_REQUESTS
    async with open_site(tmp_path) as site:
        before = value(routes, "GET", "/v1/datasets/{dataset}/labels.csv", "404")
        others = value(routes, "any", "other", "404")
        async with site.client(site.token("root")) as client:
            for name in ("x", "y"):
                await client.get(f"/v1/datasets/{name}/labels.csv")
                await client.get(f"/{name}")
        assert value(routes, "GET", "/v1/datasets/{dataset}/labels.csv", "404") == before + 2
        assert value(routes, "any", "other", "404") == others + 2
        tries = {one: value(metrics.SIGN_INS, one) for one in ("succeeded", "failed")}
        await site.browser("lars")
        async with site.client() as client:
            body = {"name": "lars", "password": password_of("rita")}
            await client.post("/v1/session", json=body)
        assert {one: value(metrics.SIGN_INS, one) - n for one, n in tries.items()} == {
            "succeeded": 1,
            "failed": 1,
        }
