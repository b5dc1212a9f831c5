"""The page docs/benchmarks.md from the results in benchmarks/results: `make bench` runs it after the scripts.

python benchmarks/report.py [--results DIR] [--out FILE]
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import QUICK_RESULTS, RESULTS, ROOT, Table, markdown

PAGE = ROOT / "docs" / "benchmarks.md"
FIRST = "step"
"""The result that a reader looks for first; the others follow by name."""

HEAD = """# Benchmarks

This page is made by `make bench`, from the files in `benchmarks/results/`; edit the scripts in `benchmarks/`, not this
page. The arms of a comparison take turns in one run. Figures are the median and, in brackets, the smallest and the
largest of the rounds; ratios are taken round by round. Floors are what the arithmetic or the bytes would take at the
rates that the same run measured."""

HIDDEN = {"json", "quick"}
"""Settings that change where a result goes, not what was measured."""

Content = Mapping[str, Any]


def read_results(folder: Path) -> dict[str, Content]:
    """Read the results by file name without its ending, in the order of the page."""
    paths = sorted(folder.glob("*.json"), key=lambda path: (not path.stem.startswith(FIRST), path.stem))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def render(results: Mapping[str, Content]) -> str:
    """Return the page as Markdown."""
    parts = [HEAD, *_summary(results)]
    for name, content in results.items():
        parts += _section(name, content)
    return "\n\n".join(parts) + "\n"


def _summary(results: Mapping[str, Content]) -> list[str]:
    table = Table("", ["goal", "measured", "reached", "processor", "see"])
    for name, content in results.items():
        ends = [content["machine"]["processor"], f"[{content['title']}](#{name})"]
        table.rows += [[goal, found, "yes" if reached else "no", *ends] for goal, found, reached in content["goals"]]
    return ["## Goals", markdown(table)] if table.rows else []


def _section(name: str, content: Content) -> list[str]:
    parts = [f'<a id="{name}"></a>\n\n## {content["title"]}', content["about"], _circumstances(content)]
    for table in content["tables"]:
        parts += [f"**{table['title']}**", markdown(Table(**table))]
        parts += [table["note"]] if table["note"] else []
    parts += [f"![{caption}](figures/{file})\n\n*{caption}*" for file, caption in content["figures"]]
    return parts


def _circumstances(content: Content) -> str:
    machine = content["machine"]
    facts = [machine["processor"], _counted(machine["processors"], "processor")]
    facts += [_counted(machine["threads"], "thread")] if "threads" in machine else []
    facts += [f"{machine['memory_gib']} GiB", machine["system"]]
    facts += [machine["accelerator"]] if "accelerator" in machine else []
    settings = [
        f"{name.replace('_', ' ')} {_shown(value)}"
        for name, value in content["settings"].items()
        if name not in HIDDEN and value is not None
    ]
    rows = {
        "Command": f"`{content['command']}`, {content['date']}",
        "Machine": ", ".join(facts),
        "Versions": ", ".join(f"{name} {value}" for name, value in content["versions"].items()),
        "Settings": ", ".join(settings),
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items() if value)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="of the quick runs, into build/benchmarks")
    settings = parser.parse_args()
    folder, page = (QUICK_RESULTS, QUICK_RESULTS / PAGE.name) if settings.quick else (RESULTS, PAGE)
    page.write_text(render(read_results(folder)), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
