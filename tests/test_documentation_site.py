"""What docs/site makes of docs/, and that commands, settings and code shown there are those of the package."""

import argparse
import contextlib
import importlib.util
import io
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bdfm_nnunet import settings
from bdfm_nnunet.cli import main
from bdfm_nnunet.commands import predict
from docs.site import build, code_blocks, command_pages, interface_pages, method_figure, page_links, setting_pages

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE_IDS = [str(path.relative_to(ROOT)) for path in PAGES]
PARSERS = command_pages.parsers()
NEED_FILES = {
    "pt_neurostorm_mae_ratio0.5.ckpt", "fold_0/training_summary.json", "/data/nnUNet_raw",
    "simclr_3d_brain_foundation.tar", "features.npz",
}  # fmt: skip
"""What blocks of Python read that no test has; of these the imports alone are run."""


@pytest.fixture(scope="module")
def reference() -> str:
    return command_pages.page()


def test_reference_page_has_every_command_and_option(reference: str) -> None:
    assert {"convert", "train", "predict", "postprocess tune", "probe reconstruction"} <= set(PARSERS)
    for name, parsers in PARSERS.items():
        section = reference.split(f"\n## bdfm {name} {{")[1].split("\n## ")[0]
        for action in (each for parser in parsers for each in command_pages.options_of(parser)):
            for option in action.option_strings or [action.metavar or action.dest]:
                assert f"`{option}" in section, f"bdfm {name} {option}"
            help_of = re.sub(r"%[(%].*", "", action.help or "")[:30]
            assert re.sub(r"[`*_<>\[\]|\\]", "", " ".join(help_of.split())) in re.sub(r"[`*_<>\[\]|\\]", "", section)


def test_reference_page_shows_marks_as_they_are(reference: str) -> None:
    assert "| nnU-Net data set number, 1 to 999 **(required)** |" in reference
    assert command_pages._cell("a|b of *_x_* `c|d`") == r"a\|b of \*\_x\_\* `c|d`"


def _complaint(words: list[str]) -> str:
    """What the parser of a command says of its arguments, or nothing."""
    name = next((f"{words[0]} {words[1]}" for _ in "x" if " ".join(words[:2]) in PARSERS), words[0])
    if name not in PARSERS:
        return "" if name == "--help" else f"bdfm has no command {name}"
    arguments = [{"$ID": "1", "$fold": "0"}.get(word, word) for word in words[len(name.split()) :]]
    if any(word.startswith("...") for word in arguments):  # some are left out
        return _unknown_options(name, arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if name == "predict":
                arguments = predict.our_parser().parse_known_args(arguments)[1]
                predict.nnunet_parser("-m" in arguments).parse_args(arguments)
            else:
                PARSERS[name][0].parse_args(arguments)
    except SystemExit as end:
        return said.getvalue().splitlines()[-1] if end.code else ""
    return ""


def _unknown_options(name: str, words: list[str]) -> str:
    known = {option for parser in PARSERS[name] for action in parser._actions for option in action.option_strings}
    given = {word.partition("=")[0].strip("[]") for word in words if re.fullmatch(r"\[?--?[a-z][\w-]*(=.*)?\]?", word)}
    return f"bdfm {name} has no {', '.join(sorted(given - known))}" if given - known else ""


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_commands_of_blocks_are_understood(page: Path) -> None:
    found = code_blocks.commands(page.read_text(encoding="utf-8"))
    assert not [complaint for words in found if (complaint := _complaint(words))]


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_commands_between_backticks_have_the_options_named(page: Path) -> None:
    wrong = []
    for words in code_blocks.inline_commands(page.read_text(encoding="utf-8")):
        names = [name for name in PARSERS if words[: len(name.split())] == name.split()]
        group = [name for name in PARSERS if name.split()[0] == words[0]]
        if not group and words[0].isalpha() and words[0].islower():
            wrong.append(f"bdfm has no command {words[0]}")
        wrong += [_unknown_options(max(names, key=len), words)] if names else []
    assert not [each for each in wrong if each]


def test_wrong_commands_are_found() -> None:
    text = "```\nbdfm plan -d 5 \\\n    --netwerk swin  # a slip\nbdfm plam -d 5; bdfm train 5 2d 0 -c x\n```\n"
    text += "    bdfm splits -d 0\n"
    assert [bool(_complaint(words)) for words in code_blocks.commands(text)] == [True] * 4
    assert _complaint("plan -d 5 --network swin".split()) == _complaint("train ... -tr X --c".split()) == ""
    assert _complaint("train ... -c visible".split()) == "bdfm train has no -c"


PYTHON = [(page, body) for page in PAGES for body in code_blocks.blocks(page.read_text(encoding="utf-8"), {"python"})]


@pytest.mark.parametrize(("page", "body"), PYTHON, ids=[str(page.relative_to(ROOT)) for page, _ in PYTHON])
def test_python_of_pages_runs(page: Path, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile(body, str(page), "exec")
    if any(name in body for name in NEED_FILES):
        lines = [line for line in body.splitlines() if re.match(r"(from|import) ", line)]
        code = compile("\n".join(lines), str(page), "exec")
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "page"})


@pytest.mark.parametrize("section", setting_pages.SECTIONS)
def test_every_setting_has_advice_and_a_range(section: str) -> None:
    kind = setting_pages.SECTIONS[section]
    page = setting_pages.with_ranges_and_advice((ROOT / "docs/settings.md").read_text(encoding="utf-8"))
    rows = re.findall(
        r"^\| `(\w+)` \| .+? \| (.+?) \| .+ \|$", page.split(f"## {section}\n")[1].split("\n## ")[0], re.M
    )
    names = {name for name, _ in rows}
    advised = set(setting_pages.ADVICE[section])
    assert not sorted(names - advised), "add them to docs/site/setting_advice.json"
    assert not sorted(advised - names - set(kind.__dataclass_fields__)), (
        "take them out of docs/site/setting_advice.json"
    )
    assert all(allowed for _, allowed in rows)


def test_ranges_are_those_of_the_checks() -> None:
    allowed = setting_pages.allowed
    assert allowed(settings.TrainingSettings, "epochs") == "a whole number above 0, or null"
    assert allowed(settings.TrainingSettings, "precision") == "`auto`, `fp32`, `bf16`, `fp16`"
    assert allowed(settings.PretrainingSettings, "mask_ratio") == "a number between 0 and 1, both excluded"
    assert allowed(settings.FrequencyCorruptionSettings, "ratio") == "[least, largest], at least 0 and at most 1"
    assert allowed(settings.FinetuningSettings, "weights") == "a text, or null"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    made = {name.lower() for name in build.TOP_PAGES} | {"reference/commands.md", "reference/python.md"}
    assert listed == written | made


def test_lists_and_headings_get_the_lines_that_python_markdown_needs() -> None:
    text = "Say:\n- one\n  more\n- two\n| a |\n## Next\n```\nx\n# no heading\n- no item\n```\n"
    assert build.for_python_markdown(text) == (
        "Say:\n\n- one\n  more\n- two\n| a |\n\n## Next\n```\nx\n# no heading\n- no item\n```\n"
    )


def test_wrong_links_and_foreign_addresses_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html">1</a><a href="c.html">2</a><a href="#top">3</a><a href="#no">4</a>'
        '<a href="b.html#x">5</a><a href="https://example.org">6</a><script src="https://example.org/x.js"></script>'
        '<link rel="canonical" href="https://example.org/a"><img src="missing.png"><a href="b.html#y">7</a>'
    )
    (tmp_path / "b.html").write_text('<p id="x">B</p>')
    assert page_links.faults(tmp_path) == [
        "a.html links to #no: no such anchor",
        "a.html links to b.html#y: no such anchor",
        "a.html links to c.html: no such file",
        "a.html links to https://example.org/x.js: it loads that from another place",
        "a.html links to missing.png: no such file",
    ]


def test_modules_of_the_python_page_exist() -> None:
    assert "::: bdfm_nnunet.convert\n" in interface_pages.page()
    modules = {name for names in interface_pages.GROUPS.values() for name in names}
    assert not [name for name in sorted(modules) if importlib.util.find_spec(f"bdfm_nnunet.{name}") is None]


def test_parsers_are_whole() -> None:
    assert all(isinstance(parser, argparse.ArgumentParser) for each in PARSERS.values() for parser in each)


def test_figure_of_the_method_is_that_of_its_script() -> None:
    assert method_figure.FIGURE.read_text(encoding="utf-8") == method_figure.figure()


def test_glossary_is_sorted() -> None:
    terms = re.findall(r"^\*\*(.+)\*\*$", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.M)
    assert terms == sorted(terms, key=str.lower)


def _scan(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)


def test_first_steps_of_the_first_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Conversion and splits as the page has them, on six made-up visits of three patients."""
    labels = np.zeros((8, 8, 8), dtype=np.uint8)
    labels[2:4, 2:4, 2:4], labels[4:6, 4:6, 4:6] = 1, 2
    for number in range(6):
        case = f"p{number // 2:03d}_{number % 2 + 1}"
        for name in ("T1", "FLAIR"):
            image = np.random.default_rng(number).normal(5.0, 1.0, (8, 8, 8)).astype(np.float32)
            _scan(tmp_path / "ours" / case / f"{case}_{name}.nii.gz", image)
        _scan(tmp_path / "ours" / case / f"{case}_mask.nii.gz", labels)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)  # a dry run writes its manifest where it is started
    page = (ROOT / "docs/tutorials/own_scans.md").read_text(encoding="utf-8").replace("/data/ours", f"{tmp_path}/ours")
    first, second = [words for words in code_blocks.commands(page) if words[0] in ("convert", "splits")]
    first += ["--workers", "1"]
    assert main(first) == main([word for word in first if word != "--dry-run"]) == main(second) == 0
    manifest = json.loads((tmp_path / "nnUNet_raw/Dataset060_Ours/manifest.json").read_text(encoding="utf-8"))
    assert {row["case"]: row["patient"] for row in manifest["cases"]}["p001_2"] == "p001"
