"""Where a link to the login page may lead afterwards, and where not."""

from __future__ import annotations

from typing import Final

OURS: Final = (
    "/",
    "/dashboard",
    "/conversation?id=alice-2",
    "/conversation?id=a%2Fb%20c&x=//y",
    "/coach#top",
    "/a/b.c/..d/%C3%A9%20x",
)

ELSEWHERE: Final = (
    "",
    "https://evil.example/",
    "//evil.example/",
    "///evil.example/",
    "/\\evil.example/",
    "\\\\evil.example/",
    "\\/evil.example/",
    "/.//evil.example/",
    "/..//evil.example/",
    "/a/..//evil.example/",
    "/%2e//evil.example/",
    "/.%2f/evil.example/",
    "/%2f/evil.example/",
    "/%2Fevil.example/",
    "/%252fevil.example/",
    "/%25252fevil.example/",
    "/%5cevil.example/",
    "/%255cevil.example/",
    "/%09/evil.example/",
    "/\t/evil.example/",
    "/\n/evil.example/",
    "\t//evil.example/",
    " //evil.example/",
    "/\x00/evil.example/",
    "/%00/evil.example/",
    "/\x85/evil.example/",
    "javascript:alert(1)",
    "http://[",
    "/%ff",
    "evil.example",
    "dashboard",
)
