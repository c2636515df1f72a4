"""The pages as files: what is sent with them, and that there is nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files
from urllib.parse import quote, urljoin

import pytest

from tests.support.http import site
from tests.support.next_paths import ELSEWHERE, OURS
from trioserver.examples import website

STATIC = files("trioserver") / "http" / "static"
FILES = website.read()
SCRIPTS = {path: file.body.decode() for path, file in FILES.items() if path.endswith(".js")}
DOCUMENTS = {path: file.body.decode() for path, file in FILES.items() if "html" in file.type}


async def test_every_file_has_its_type_and_the_policy() -> None:
    async with site(website.make()) as place:
        http = await place.open()
        for path, file in FILES.items():
            answer = await http.get(path)
            assert answer.status == 200
            assert answer.body == file.body
            assert answer.headers["content-type"] == file.type
            for name, value in website.HEADERS.items():
                assert answer.headers[name.lower()] == value
    assert set(DOCUMENTS) == {"/", *(f"/{name}" for name in website.PAGES)}
    assert "/static/trioserver.js" in SCRIPTS


def test_the_policy_lets_nothing_in_from_elsewhere() -> None:
    policy = dict(part.split(" ", 1) for part in website.POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'", "'script'"}
    assert "unsafe" not in website.POLICY


async def test_what_a_browser_has_it_need_not_get_again() -> None:
    async with site(website.make()) as place:
        http = await place.open()
        tag = (await http.get("/login")).headers["etag"]
        again = await http.request("GET", "/login", headers={"If-None-Match": tag})
        assert (again.status, again.body) == (304, b"")
        other = await http.request("GET", "/login", headers={"If-None-Match": '"other"'})
        assert other.status == 200
        head = await http.request("HEAD", "/")
        assert head.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../website.py",
        "/static/%2e%2e/website.py",
        "/static/",
        "/static/index.html",
        "/pages/index.html",
        "/etc/passwd",
    ],
)
async def test_no_other_file_is_there(path: str) -> None:
    async with site(website.make()) as place:
        http = await place.open()
        answer = await http.get(path)
        assert answer.status == 404
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await http.request("POST", "/login")).status == 405


class Page(HTMLParser):
    """What a document refers to, and what in it has no name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.refers: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.append(tag)
        self.refers += [value for name in ("src", "href") if (value := given.get(name))]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if given.get("id"):
            self.ids.append(given["id"] or "")


@pytest.mark.parametrize("path", sorted(DOCUMENTS))
def test_a_page_refers_only_to_what_is_here(path: str) -> None:
    page = Page(DOCUMENTS[path])
    known = {*FILES, "#main", "/protocol", "/readyz"}
    assert set(page.refers) <= known
    assert not page.inline
    assert "style" not in page.tags
    assert len(set(page.ids)) == len(page.ids)


@pytest.mark.parametrize("path", sorted(SCRIPTS))
def test_a_script_finds_what_it_imports(path: str) -> None:
    for name in re.findall(r'^(?:\} |import |export ).*from "(.+)";$', SCRIPTS[path], re.MULTILINE):
        assert urljoin(path, name) in SCRIPTS


@pytest.mark.parametrize("path", [path for path in sorted(SCRIPTS) if "/trioserver" not in path])
def test_a_script_of_a_page_finds_what_it_names(path: str) -> None:
    text = SCRIPTS[path]
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert not re.search(r"innerHTML|document\.write|eval\(|console\.|document\.cookie", code)
    stem = path.removeprefix("/static/").removesuffix(".js")
    page = DOCUMENTS.get("/" if stem == "index" else f"/{stem}")
    if page is not None:
        assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= set(Page(page).ids)


def test_tokens_are_kept_where_they_end_with_the_tab() -> None:
    keepers = {path for path, text in SCRIPTS.items() if "localStorage" in text}
    assert keepers == {"/static/tester.js", "/static/coach.js"}  # pasted tokens, and an address


def test_all_files_of_the_folder_are_served() -> None:
    pages = {entry.name for entry in (files("trioserver") / "examples" / "pages").iterdir()}
    client = {entry.name for entry in (STATIC / "trioserver").iterdir()}
    served = {path.removeprefix("/static/") for path in FILES if path.startswith("/static/")}
    assert served == {
        *(name for name in pages if not name.endswith(".html")),
        "trioserver.js",
        *(f"trioserver/{name}" for name in client),
    }


@pytest.mark.parametrize("path", OURS)
async def test_a_link_to_the_login_page_may_lead_to_a_path_of_this_server(path: str) -> None:
    assert website.is_own_path(path)
    async with site(website.make()) as place:
        http = await place.open()
        assert (await http.get(f"/login?next={quote(path, safe='')}")).status == 200


@pytest.mark.parametrize("path", ELSEWHERE)
async def test_a_link_to_the_login_page_that_leads_elsewhere_is_cut(path: str) -> None:
    async with site(website.make()) as place:
        http = await place.open()
        for query in (f"next={quote(path, safe='')}", f"next=/&next={quote(path, safe='')}"):
            answer = await http.get(f"/login?{query}")
            assert (answer.status, answer.headers["location"]) == (303, "/login")
