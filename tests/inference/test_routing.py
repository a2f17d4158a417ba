"""Which version answers: aliases, the canary's share, version policies, control by request."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from support.bundles import encoded, promote_version, publish_bundle
from support.inference_server import Server, running_server
from support.waiting import wait_for
from tritonclient.utils import InferenceServerException

from visionloop.errors import ConfigurationError
from visionloop.repository import ModelRepository
from visionloop_inference.catalogue import share
from visionloop_inference.version_policy import VersionPolicy

IMAGE = encoded(5)


@contextmanager
def serving(folder: Path, store: str, *flags: str) -> Iterator[Server]:
    with running_server(folder / "server", store, *flags) as server:
        yield server.ready()


def canary(repository: ModelRepository, version: int, percent: float) -> None:
    repository.set_canary(
        "cells", version, percent, expected=repository.aliases("cells"), who="a test", why="to see"
    )


def versions(server: Server, keys: list[str], **fields: str) -> dict[str, int]:
    return {key: server.recognize(IMAGE, routing_key=key, **fields).version for key in keys}


def loaded(server: Server, version: int) -> None:
    """Waits until a version answers by its number."""

    def answers() -> bool:
        try:
            return server.recognize(IMAGE, version=str(version)).version == version
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error  # noqa: PT017
            return False

    wait_for(answers, hint=f"version {version}; log: {server.log}")


# --- the canary


def test_a_canary_gets_its_share_and_the_same_callers(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2)
    keys = [f"customer {number}" for number in range(80)]
    with serving(tmp_path, store_of_models) as server:
        assert set(versions(server, keys[:10]).values()) == {1}
        canary(repository, 2, 40.0)
        wait_for(lambda: server.metric("visionloop_model_info", version="2", alias="canary") == 1)
        wait_for(lambda: 2 in versions(server, keys[:20]).values())
        found = versions(server, keys)
        assert found == {key: 2 if share("cells", key) < 40.0 else 1 for key in keys}
        assert found == versions(server, keys)
        assert server.recognize(IMAGE, version="canary").version == 2
        assert server.recognize(IMAGE, version="stable").version == 1
        # Without a key each request is drawn by itself.
        drawn = Counter(server.recognize(IMAGE).version for _ in range(60))
        assert set(drawn) == {1, 2}

        # Promoted: everybody gets it, and nothing is loaded anew.
        loads = server.metric("visionloop_model_load_total", outcome="loaded")
        promote_version(repository, 2)
        server.serves(2)
        wait_for(lambda: set(versions(server, keys[:20]).values()) == {2})
        assert server.metric("visionloop_model_load_total", outcome="loaded") == loads


def test_an_ended_canary_is_let_go(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2)
    canary(repository, 2, 50.0)
    with serving(tmp_path, store_of_models) as server:
        loaded(server, 2)
        repository.end_canary(
            "cells", expected=repository.aliases("cells"), who="a test", why="enough"
        )
        wait_for(lambda: "cells version 2 is released" in server.text())
        for _ in range(20):
            assert server.recognize(IMAGE).version == 1
        with pytest.raises(grpc.RpcError, match="no canary"):
            server.recognize(IMAGE, version="canary")


def test_a_canary_that_is_wrong_gets_no_share(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2, wrong_golden=11)  # not among the first that are replayed
    with serving(tmp_path, store_of_models) as server:
        canary(repository, 2, 90.0)
        wait_for(lambda: server.metric("visionloop_model_swap_total", result="demoted") == 1)
        for _ in range(20):
            assert server.recognize(IMAGE).version == 1


def test_shares_are_even_and_differ_between_models() -> None:
    keys = [f"user-{number}" for number in range(4000)]
    for model in ("cells", "dogs"):
        below = sum(share(model, key) < 25.0 for key in keys)
        assert 850 < below < 1150
    same = sum((share("cells", key) < 25.0) == (share("dogs", key) < 25.0) for key in keys)
    assert 2200 < same < 2800  # 62.5 % when the two are independent
    assert all(0.0 <= share("cells", "") < 100.0 for _ in range(1000))


# --- policies


@pytest.mark.parametrize(
    ("policy", "published", "wanted"),
    [
        ("aliases", [1, 2, 3], []),
        ("all", [1, 2, 3], [1, 2, 3]),
        ("latest:2", [1, 2, 3], [2, 3]),
        ("latest:9", [1, 2, 3], [1, 2, 3]),
        ("latest:1", [], []),
        ("specific:2,7", [1, 2, 3], [2]),
    ],
)
def test_what_a_policy_wants(policy: str, published: list[int], wanted: list[int]) -> None:
    assert VersionPolicy.parse(policy).wanted(published) == wanted


@pytest.mark.parametrize("policy", ["", "latest", "latest:0", "specific:", "specific:0", "newest"])
def test_policies_that_are_none(policy: str) -> None:
    with pytest.raises(ConfigurationError, match="version-policy"):
        VersionPolicy.parse(policy)


@pytest.mark.long
def test_versions_beside_the_aliases_come_and_go(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    for seed in (1, 2, 3):
        publish_bundle(repository, seed=seed)
    promote_version(repository, 1)
    with serving(tmp_path, store_of_models, "--version-policy=latest:1") as server:
        loaded(server, 3)
        assert server.recognize(IMAGE).version == 1
        with pytest.raises(grpc.RpcError, match="loaded are 1, 3"):
            server.recognize(IMAGE, version="2")
        publish_bundle(repository, seed=4)
        loaded(server, 4)
        wait_for(lambda: "cells version 3 is released" in server.text())
        with triton.InferenceServerClient(server.target) as client:
            index = client.get_model_repository_index(as_json=True)["models"]
            ready = {entry["version"] for entry in index if entry["state"] == "READY"}
            assert ready == {"1", "4"}


# --- control by request


def test_models_come_and_go_by_request(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, "cats", seed=1, promote=True)
    publish_bundle(repository, "dogs", seed=2, promote=True)
    with serving(tmp_path, store_of_models, "--model-control=explicit") as server:
        with pytest.raises(grpc.RpcError) as nothing:
            server.recognize(IMAGE)
        assert nothing.value.code() is grpc.StatusCode.UNAVAILABLE
        with triton.InferenceServerClient(server.target) as client:
            client.load_model("cats")
            assert server.recognize(IMAGE).model == "cats"
            assert client.is_model_ready("cats")
            with pytest.raises(InferenceServerException, match="birds"):
                client.load_model("birds")
            client.load_model("dogs")
            assert server.recognize(IMAGE, model="dogs").version == 1

            # A new version is taken when it is asked for, not before.
            publish_bundle(repository, "cats", seed=3, promote=True)
            assert server.recognize(IMAGE, model="cats").version == 1
            client.load_model("cats")
            assert server.recognize(IMAGE, model="cats").version == 2

            client.unload_model("cats")
            assert not client.is_model_ready("cats")
            assert server.recognize(IMAGE, model="dogs").version == 1
            client.load_model("cats")
            assert client.is_model_ready("cats")


def test_where_the_store_decides_requests_do_not(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    with (
        serving(tmp_path, store_of_models) as server,
        triton.InferenceServerClient(server.target) as client,
    ):
        for ask in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="--model-control explicit"):
                ask("cells")
        assert server.recognize(IMAGE).version == 1
