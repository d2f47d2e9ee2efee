"""What the pages link to and name is there."""

import re
from pathlib import Path

import pytest

from tests.helpers.pages import PAGES, ROOT, anchors, code_words, links, read

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_source_file_that_a_page_names_is_there(page: Path) -> None:
    for words in code_words(page):
        for path in re.findall(r"[\w./-]+/[\w-]+\.py\b", words):
            assert (ROOT / path).is_file() or (ROOT / "rmpsweep" / path).is_file(), f"{page.name}: {path}"


def test_every_page_of_docs_is_linked_from_another() -> None:
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    assert [page.name for page in PAGES if page.parent == ROOT / "docs" and page.resolve() not in linked] == []


def test_the_readme_is_one_page() -> None:
    assert len(read(ROOT / "README.md").split()) <= 700
