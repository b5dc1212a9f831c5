"""Build the documentation site: `python -m docs.site.build`, or `make docs`.

Pages come from docs/ as they are, but for lines that Python-Markdown needs. The pages of commands
and of the Python interface are generated, settings get their ranges and advice. Everything is laid out in
build/docs, built into build/site, and there every link, anchor and address is checked. Nothing is fetched.
"""

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

from docs.site import command_pages, interface_pages, page_links, setting_pages

ROOT = Path(__file__).parents[2]
PAGES, TYPES, SITE = ROOT / "build/docs", ROOT / "build/docs_types/bdfm_nnunet", ROOT / "build/site"
ROOT_FOLDERS = ("trainers", "plans", "dataset_conversion")
TOP_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
ASSETS = ("site.css", "file_search.js")
SHIM = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"[^>]*></script>')
"""What the theme loads from elsewhere so that pages opened as files can be searched: file_search.js does it here."""

log = logging.getLogger("docs.site")


def main() -> int:
    """Build and check the site; return 0, or 1 where something is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lay_out_pages()
    lay_out_modules()
    shutil.rmtree(SITE, ignore_errors=True)
    program = Path(sys.executable).with_name("zensical")
    command = [str(program), "build", "--strict", "--clean", "-f", str(ROOT / "mkdocs.yml")]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        return 1
    for page in SITE.rglob("*.html"):
        page.write_text(SHIM.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    faults = page_links.faults(SITE)
    for fault in faults:
        log.error("%s", fault)
    log.info("%d pages in %s, %d faults", len(list(SITE.rglob("*.html"))), SITE, len(faults))
    return 1 if faults else 0


def lay_out_pages() -> None:
    """Write all pages, generated ones included, into build/docs."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("site", "__pycache__"))
    for name in ASSETS:
        shutil.copy(ROOT / "docs/site" / name, PAGES)
    for name in TOP_PAGES:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        for other in TOP_PAGES:
            text = text.replace(f"]({other}", f"]({other.lower()}")
        (PAGES / name.lower()).write_text(text, encoding="utf-8")
    settings = PAGES / "settings.md"
    settings.write_text(setting_pages.with_ranges_and_advice(settings.read_text(encoding="utf-8")), encoding="utf-8")
    for path in PAGES.rglob("*.md"):
        path.write_text(for_python_markdown(path.read_text(encoding="utf-8")), encoding="utf-8")
    (PAGES / "reference").mkdir()
    (PAGES / "reference/commands.md").write_text(command_pages.page(), encoding="utf-8")
    (PAGES / "reference/python.md").write_text(interface_pages.page(), encoding="utf-8")


def lay_out_modules() -> None:
    """Show the sources in the layout of an installation, which they do not have here."""
    shutil.rmtree(TYPES, ignore_errors=True)
    TYPES.mkdir(parents=True)
    for source in (*(ROOT / "bdfm_nnunet").iterdir(), *(ROOT / name for name in ROOT_FOLDERS)):
        if source.name != "__pycache__":
            (TYPES / source.name).symlink_to(source)


def for_python_markdown(text: str) -> str:
    """Put empty lines around lists and headings that follow other text, where code hosts need none."""
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        before = lines[-1] if lines else ""
        fenced ^= line.lstrip().startswith("```")
        starts_list = _is_item(line) and not (_is_item(before) or before.startswith(" "))
        if not fenced and before.strip() and (starts_list or re.match(r"#+ ", line)):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _is_item(line: str) -> bool:
    return re.match(r"([-*]|\d+\.) ", line) is not None


if __name__ == "__main__":
    sys.exit(main())
