"""The pages hold together: links lead somewhere, every page is in the index, make can do what is
said."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from docs.pictures.render import shown_files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", *ROOT.glob("charts/*/README.md")])
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """The page without its fenced code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What GitHub calls the page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    linked = {
        (DOCS / link.partition("#")[0]).resolve()
        for link in LINK.findall(prose(DOCS / "README.md"))
    }
    pages = {page for page in PAGES if DOCS in page.parents and page.parent.name != "runbooks"}
    assert pages - linked == {DOCS / "README.md"}
    assert DOCS / "runbooks/README.md" in linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_knows_its_targets(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    said = [*FENCED.findall(text), *re.findall(r"`[^`\n]+`", prose(page))]
    named = re.findall(r"^`?make ([a-z-]+)", "\n".join(said), re.MULTILINE)
    assert set(named) <= targets


def test_pictures_are_shown_and_can_be_taken_anew() -> None:
    pictures = DOCS / "pictures"
    linked = {
        (page.parent / link).resolve() for page in PAGES for link in LINK.findall(prose(page))
    }
    shown = {path.name for path in linked if path.parent == pictures}
    assert shown == {path.name for path in pictures.glob("*.png")} == shown_files()


def test_no_merge_was_left_half_done() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no checkout of git: nothing says which files are ours")
    asked = ["git", "grep", "-I", "-n", "-E", "^(<{7}|>{7}) "]
    found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout + found.stderr  # 1: no line
