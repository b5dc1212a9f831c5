"""Faults of a built site: links and anchors that lead nowhere, and what a page would load from elsewhere."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
NO_LOADING = {"canonical", "alternate", "next", "prev", "preconnect"}


@dataclass
class Page(HTMLParser):
    """What a page links to, where it can be linked to, and what it loads."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and set(values.get("rel", "").split()) & NO_LOADING:
            return
        self.loads += [values[name] for of, name in LOADED if of == tag and name in values]


def read_page(path: Path) -> Page:
    """Return what the page of a file has."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def faults(site: Path) -> list[str]:
    """Return a sentence for each link, anchor or address of a site that is wrong; addresses are not visited."""
    pages = {path.resolve(): read_page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        if name.name == "404.html":  # has addresses from the root of a server
            continue
        for address in (*page.links, *page.loads):
            fault = _fault(path, address, pages, loaded=address in page.loads)
            if fault:
                found.append(f"{name} links to {address}: {fault}")
    return sorted(set(found))


def _fault(path: Path, address: str, pages: dict[Path, Page], *, loaded: bool) -> str:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return "it loads that from another place" if loaded and parts.scheme != "data" else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir() and (target / "index.html").exists():
        target /= "index.html"
    if not target.exists():
        return "no such file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "no such anchor" if parts.fragment != "__tabbed" else ""
    return ""
