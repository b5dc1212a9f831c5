"""`bdfm report`, the whole command."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.files import write_json
from bdfm_nnunet.reports import viewer_script
from bdfm_nnunet.results import RunResult, write_result
from tests.reports.page_cohort import HARMLESS, SHAPE, write_runs

VIEWER = "class Niivue { } export { Niivue };"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "link"):
            self.inside.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.inside[-1] if self.inside else "", data))

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(data for place, data in self.texts if place not in ("script", "style"))


def page_of(tmp_path, *arguments):
    assert main(["report", *map(str, arguments), "-o", str(tmp_path / "page")]) == 0
    return Page((tmp_path / "page" / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def viewer(tmp_path):
    (tmp_path / "index.js").write_text(VIEWER)
    return "--viewer", str(tmp_path / "index.js")


def data_of(page, place):
    (at,) = [n for n, (tag, attributes) in enumerate(page.elements) if attributes.get("id") == place]
    number = sum(tag == "script" for tag, _ in page.elements[:at])
    return json.loads([data for inside, data in page.texts if inside == "script"][number])


def cases_of(page):
    return [attributes["data-value"] for attributes in page.named("th") if "data-value" in attributes]


def test_page_compares_runs_case_by_case(runs, tmp_path, viewer):
    page = page_of(tmp_path, f"from scratch={runs['scratch']}", runs["tuned"], runs["pretraining"], *viewer)
    assert "tuned minus from scratch, case by case" in page.text and "4 cases that all runs have" in page.text
    assert "4 better, 0 worse, 0 equal" in page.text and "too few cases to tell" in page.text
    summary = json.loads(runs["tuned"].read_text())["summary"]["whole"]["dice"]
    assert f"{summary['mean']:.3f} [{summary['low']:.3f}, {summary['high']:.3f}]" in page.text
    assert f"{summary['mean']:+.3f} [" in page.text  # the first run has a Dice of 0 everywhere
    assert cases_of(page)[0] == "case_1"  # the worst of the last run with scores


def test_page_shows_a_training(runs, tmp_path):
    page = page_of(tmp_path, runs["pretraining"])
    for told in ("2.00 h", "750", "1,234,567", "CC BY <4.0>", "shares scans with brats2021", "initial_lr", "0.001",
                 "An earlier training is not known", "nnUNetTrainerBDFMPretrain", "2.9.9"):  # fmt: skip
        assert told in page.text, told
    charts = [attributes["aria-label"] for attributes in page.named("svg") if attributes.get("role") == "img"]
    assert charts[0] == "Losses over 3 epochs: train_losses from 2 to 1.25; val_losses from 2.5 to 1.75"
    assert "psnr over 3 epochs: psnr from 10 to 12.5" in charts


def test_a_name_of_a_case_is_text_and_nothing_else(runs, tmp_path, viewer):
    page = page_of(tmp_path, runs["scratch"], f"<b>x</b>={runs['tuned']}", *viewer)
    assert HARMLESS in page.text and "<b>x</b>" in page.text and not page.named("b")
    scripts = page.named("script")
    assert [s.get("type") for s in scripts[:-1]] == ["application/json"] * (
        len(scripts) - 1
    )  # data, then the page's own
    assert HARMLESS in [entry["name"] for entry in data_of(page, "page-data")["cases"]]


def test_page_asks_nobody_for_anything(runs, tmp_path, viewer):
    page = page_of(tmp_path, runs["scratch"], runs["tuned"], *viewer)
    addresses = [
        value for _, a in page.elements for key, value in a.items() if key in ("src", "href", "action", "data")
    ]
    assert addresses and all(value.startswith(("data:image/png;base64,", "data:,", "#")) for value in addresses)
    (policy,) = [a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "http" not in policy
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]


def test_pictures_say_what_they_show(runs, tmp_path, viewer):
    page = page_of(tmp_path, runs["scratch"], runs["tuned"], *viewer)
    pictures = page.named("img")
    assert len(pictures) == 4 * 3 and all(a["alt"] for a in pictures)
    first = [a["alt"] for a in pictures[:3]]
    assert first[0] == "case_1, reference, the slice with most of it: 36 voxels labelled"
    assert first[1] == "case_1, scratch: 0 voxels of the slice agree, 36 missed, 0 extra, 0 with another label"
    assert first[2].startswith("case_1, tuned: 30 voxels of the slice agree, 6 missed, 6 extra, 0 with")


def test_volumes_of_the_viewer_are_those_of_the_files(runs, tmp_path, viewer):
    page = page_of(tmp_path, runs["scratch"], runs["tuned"], *viewer)
    assert gzip.decompress(base64.b64decode(data_of(page, "viewer-source"))).decode() == VIEWER
    packed = data_of(page, "volumes-0")
    assert set(packed) == {"image", "reference", *(f"{k}-{n}" for k in ("prediction", "disagreement") for n in (0, 1))}
    shown = {
        place: nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text))) for place, text in packed.items()
    }
    labels = nibabel.load(runs["tuned"].parent / "labelsTr" / "case_1.nii.gz")
    there = np.argwhere(np.asarray(labels.dataobj) == 2)
    here = np.argwhere(np.asarray(shown["reference"].dataobj) == 2)
    expected, found = (
        nibabel.affines.apply_affine(i.affine, v) for i, v in ((labels, there), (shown["reference"], here))
    )
    assert sorted(map(tuple, found.round(3))) == sorted(map(tuple, expected.round(3)))
    image = np.asarray(shown["image"].dataobj)
    assert image.dtype == np.uint8 and image.max() == 255 and image.shape < SHAPE
    difference = np.asarray(shown["disagreement-1"].dataobj)
    assert {int(v): int((difference == v).sum()) for v in np.unique(difference)} == {
        0: difference.size - 30 - 30 - 8, 2: 30, 3: 30, 4: 8,
    }  # fmt: skip


def test_limits_leave_cases_out_and_say_so(runs, tmp_path, viewer):
    page = page_of(tmp_path, runs["scratch"], runs["tuned"], *viewer, "--pictures", "3", "--viewer-cases", "2")
    assert "The worst and best 3 of 4 cases have pictures" in page.text
    assert "The viewer has the worst and best 2 of 4 cases." in page.text
    assert len(page.named("img")) == 9 and len(cases_of(page)) == 4
    assert [entry["name"] for entry in data_of(page, "page-data")["cases"]] == ["case_1", "case_2"]


def test_without_the_viewer_the_page_says_how_to_get_it(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(viewer_script, "PACKAGE", "no-such-package")
    page = page_of(tmp_path, runs["scratch"])
    assert "pip install 'bdfm-nnunet[report]'" in page.text and not page.named("canvas")
    assert len(page.named("img")) == 8 and "to have it: pip install" in capsys.readouterr().out


def test_without_images_the_page_still_has_its_numbers(runs, tmp_path):
    result = json.loads(runs["tuned"].read_text())
    write_json(tmp_path / "moved.json", {**result, "settings": {"reference": "gone", "prediction": "gone"}})
    page = page_of(tmp_path, tmp_path / "moved.json")
    assert "There are no pictures" in page.text and "--images, --reference and --predictions" in page.text
    assert not page.named("img") and len(cases_of(page)) == 4
    root = runs["tuned"].parent
    folders = (
        "--reference",
        root / "labelsTr",
        "--images",
        root / "imagesTr",
        "--predictions",
        f"moved={root / 'tuned'}",
    )
    assert len(page_of(tmp_path, tmp_path / "moved.json", *folders).named("img")) == 8


def test_a_damaged_image_is_a_sentence_in_its_place(runs, tmp_path, viewer):
    images = tmp_path / "images"
    images.mkdir()
    for path in (runs["tuned"].parent / "imagesTr").iterdir():
        content = path.read_bytes()
        (images / path.name).write_bytes(content[:300] if path.name.startswith("case_2") else content)
    page = page_of(tmp_path, runs["tuned"], "--images", images, *viewer)
    assert "case_2_0000.nii.gz cannot be read as NIfTI" in page.text and len(page.named("img")) == 6


def test_a_case_that_is_no_file_name_is_not_looked_for(runs, tmp_path):
    result = json.loads(runs["tuned"].read_text())
    result["cases"][0]["case"] = "../labelsTr/case_0"
    write_json(tmp_path / "moved.json", result)
    page = page_of(tmp_path, tmp_path / "moved.json")
    assert "no image of ../labelsTr/case_0 was found" in page.text and len(page.named("img")) == 6


def test_folds_are_one_run(tmp_path):
    for fold, dice in ((0, 0.5), (1, 0.75), (10, 1.0)):
        case = {"case": f"case_{fold}", "regions": {"WT": {"dice": dice}}}
        summary = {"WT": {"dice": {"mean": dice, "low": dice, "high": dice}}}
        scores = {"metrics": "nnunet", "regions": {"WT": [1]}, "summary": summary, "cases": [case]}
        result = RunResult(kind="segmentation", scores=scores, curves={"val_losses": [1.0, fold]})
        write_result(tmp_path / "model" / f"fold_{fold}" / "training_summary.json", result)
    page = page_of(tmp_path, tmp_path / "model")
    assert "0.750 [0.500, 1.000]" in page.text and cases_of(page) == ["case_0", "case_1", "case_10"]
    assert "Curves, fold 10" in page.text


def test_the_same_runs_give_the_same_page(runs, tmp_path, viewer):
    texts = []
    for name in ("one", "two"):
        assert main(["report", str(runs["scratch"]), str(runs["tuned"]), *viewer, "-o", str(tmp_path / name)]) == 0
        texts.append((tmp_path / name / "report.html").read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json", "-o", "page"], r"nowhere\.json does not exist: name the JSON file"),
        ([".", "-o", "page"], r"holds no result \(training_summary\.json"),
        (["{tuned}"], r"with -o DIR or shown with --serve: give one"),
        (["{tuned}", "-o", "page", "--serve"], r"with -o DIR or shown with --serve: give one"),
        (["{tuned}", "-o", "page", "--port", "80"], r"--port belongs to --serve"),
        (["{tuned}", "--serve", "--port", "70000"], r"--port 70000 is no port"),
        (["a={tuned}", "a={scratch}", "-o", "page"], r"two runs are called 'a': tell them apart as NAME=PATH"),
        (["{tuned}", "-o", "page", "--measure", "nsd"], r"no score .nsd. in the runs: choose --measure from dice"),
        (["{tuned}", "-o", "page", "--images", "nowhere"], r"nowhere is not a folder"),
        (["{tuned}", "-o", "page", "--predictions", "x=."], r"--predictions names 'x', but the runs are tuned"),
        (["{tuned}", "-o", "page", "--viewer", "{tuned}"], r"tuned\.json is no NiiVue module: name dist/index\.js"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_one_sentence(runs, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *(text.format(**runs) for text in arguments)]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told) and told.count("\n") == 1 and not Path("page").exists()


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path, capsys):
    result = json.loads(runs["tuned"].read_text())
    write_json(tmp_path / "lesions.json", {**result, "metrics": "lesionwise-2023"})
    others = [{**row, "case": f"other_{row['case']}"} for row in result["cases"]]
    write_json(tmp_path / "others.json", {**result, "cases": others})
    for name, message in (("lesions", "scored by different versions"), ("others", "have no case, region and score in")):
        assert main(["report", str(runs["tuned"]), str(tmp_path / f"{name}.json"), "-o", str(tmp_path / "page")]) == 2
        assert message in capsys.readouterr().err


def test_serve_names_its_address_until_it_is_ended(runs, monkeypatch, capsys):
    def interrupted(server):
        assert server.page.answer("/")[0] == 200
        raise KeyboardInterrupt

    monkeypatch.setattr("bdfm_nnunet.reports.page_server.PageServer.serve_forever", interrupted)
    assert main(["report", str(runs["tuned"]), "--serve"]) == 0
    assert re.fullmatch(
        r"http://127\.0\.0\.1:\d+/[\w-]{20,}/ shows the page, to this machine only; Ctrl-C ends it\nended\n",
        capsys.readouterr().out,
    )
