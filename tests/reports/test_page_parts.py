"""The parts of a page: markup that escapes, charts that say what they show, cases side by side, case pictures."""

import io
import math
import re

import nibabel
import numpy as np
import pytest
from PIL import Image

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.reports.case_comparison import compare_cases, worst_and_best
from bdfm_nnunet.reports.case_pictures import AGREED, EXTRA, MISSED, OTHER, CaseImages, read_case
from bdfm_nnunet.reports.case_sections import score_section
from bdfm_nnunet.reports.markup import Markup, joined, tag
from bdfm_nnunet.reports.page_charts import difference_chart, line_chart
from bdfm_nnunet.reports.reported_runs import RunPart, read_runs
from bdfm_nnunet.reports.run_sections import run_section
from bdfm_nnunet.results import RunResult, write_result

HOSTILE = "\"'><script>alert(1)</script>&\x1b\ud800"


def test_no_text_becomes_markup():
    shown = joined(tag("p", HOSTILE, title=HOSTILE), HOSTILE)
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 3
    assert '"' not in shown.replace('title="', "", 1).partition('">')[0]
    assert shown.encode("utf-8") and "\x1b" not in shown


def test_markup_stays_and_attributes_of_zero_are_kept():
    assert tag("td", Markup("<b>x</b>"), data_value=0, hidden=False, open=True) == (
        '<td data-value="0" open><b>x</b></td>'
    )


def test_line_chart_leaves_out_what_does_not_exist():
    assert line_chart({"a": [None, math.nan, math.inf]}, title="A") == ""
    chart = line_chart({"a": [1.0, None, 3.0], "b": [None, None, None]}, title="Loss")
    assert 'aria-label="Loss over 3 epochs: a from 1 to 3"' in chart and chart.count("<polyline") == 1
    points = chart.partition('points="')[2].partition('"')[0].split()
    assert len(points) == 2 and points[0].split(",")[1] > points[1].split(",")[1]  # up is smaller in SVG
    assert "<circle" in line_chart({"a": [2.0]}, title="A") and "nan" not in line_chart({"a": [0.0, 0.0]}, title="A")


def test_long_curves_are_thinned_out_and_end_where_they_end():
    values = [float(n) for n in range(10_001)]
    chart = line_chart({"a": values}, title="A")
    assert len(chart) < 20_000 and "a from 0 to 1e+04" in chart


def test_ticks_can_be_told_apart():
    chart = line_chart({"a": [11.41001, 11.41009]}, title="A")
    ticks = re.findall(r'class="end">([^<]+)</text>', chart)[:-1]
    assert len(ticks) > 2 and len(set(ticks)) == len(ticks)


@pytest.mark.parametrize(
    ("count", "step", "told"), [(5, 0.1, "too few"), (6, 0.1, "better"), (6, -0.0002, "worse"), (6, 0, "no")]
)
def test_difference_in_words(count, step, told):
    cases = {f"case_{n}": (0.1 * n, 1.0) for n in range(count)}
    results = {"one": scores(**cases), "two": scores(**{case: (a + step, b) for case, (a, b) in cases.items()})}
    shown = score_section(compare_cases(results), results)
    cells = re.findall(r"<td>([^<]*)</td>", shown.partition("two minus one")[2])
    assert cells[2].startswith(told) and cells[0] == {
        0.1: "+0.100 [+0.100, +0.100]", -0.0002: "-0.0002 [-0.0002, -0.0002]", 0: "+0.000 [+0.000, +0.000]",
    }[step]  # fmt: skip


def test_difference_chart_has_a_dot_for_each_case():
    rows = {"WT": ([0.1, 0.2, math.nan], 0.15, 0.05, 0.25), "ET": ([], math.nan, math.nan, math.nan)}
    chart = difference_chart(rows, title="Dice")
    assert chart.count('class="case"') == 2 and chart.count('class="mean"') == 1
    assert "Dice: WT +0.150, interval +0.050 to +0.250" in chart
    assert difference_chart({"ET": rows["ET"]}, title="Dice") == ""


def scores(**cases):
    rows = [{"case": case, "regions": {"WT": {"dice": a, "hd95_mm": b}}} for case, (a, b) in cases.items()]
    empty = {"mean": None, "low": None, "high": None}
    return {"metrics": "whole", "summary": {"WT": {"dice": empty, "hd95_mm": empty}}, "cases": rows}


def test_cases_are_sorted_by_the_last_run_and_undefined_ones_come_last():
    first = scores(a=(0.1, 1.0), b=(0.2, 2.0), c=(0.3, 3.0), only_here=(0.0, 0.0))
    second = scores(c=(0.5, 4.0), a=(None, None), b=(0.25, 9.0))
    found = compare_cases({"one": first, "two": second})
    assert (found.cases, found.left_out) == (("b", "c", "a"), 1)
    change = found.change("two", "WT")
    assert change.mean == pytest.approx(0.375 - 0.2) and change.undefined == 1
    assert compare_cases({"one": first, "two": second}, measure="hd95_mm").cases == ("b", "c", "a")
    with pytest.raises(InputError, match=r"no score 'nsd'"):
        compare_cases({"one": first}, measure="nsd")


def test_interval_of_a_constant_difference_has_no_width():
    first, second = scores(a=(0.1, 1.0), b=(0.6, 2.0)), scores(a=(0.2, 1.0), b=(0.7, 2.0))
    change = compare_cases({"one": first, "two": second}).change("two", "WT")
    assert (change.low, change.high) == (pytest.approx(0.1), pytest.approx(0.1))


@pytest.mark.parametrize(("most", "expected"), [(0, ""), (1, "a"), (2, "ae"), (3, "abe"), (9, "abcde")])
def test_worst_and_best(most, expected):
    assert "".join(worst_and_best("abcde", most)) == expected


@pytest.fixture
def case():
    reference, prediction = np.zeros((2, 30, 30, 30), dtype=np.uint8)
    reference[10:12, 10, 10], prediction[11:14, 10, 10] = 1, 1
    reference[20, 20, 10], prediction[20, 20, 10] = 1, 2
    image = np.full((30, 30, 30), 100, dtype=np.uint8)
    return CaseImages("c", image, reference, {"r": prediction}, np.diag([1.0, 1.0, 4.0, 1.0]), image.shape)


def test_disagreement_names_every_kind(case):
    found = case.disagreement("r")
    assert found[10:14, 10, 10].tolist() == [MISSED, AGREED, EXTRA, EXTRA] and found[20, 20, 10] == OTHER
    assert (found > 0).sum() == 5


def test_a_large_case_is_cut_around_its_labels_and_then_thinned(case):
    assert case.smaller(27_000) is case and case.told == ""
    cut = case.cut((slice(5, 25), slice(5, 25), slice(5, 20))).smaller(1_000)
    assert cut.step == 2 and cut.image.size <= 1_000 and "every second along each axis" in cut.told
    assert np.diag(cut.affine).tolist() == [2.0, 2.0, 8.0, 1.0] and cut.affine[:3, 3].tolist() == [5.0, 5.0, 20.0]


def test_a_case_without_labels_is_thinned_too(case):
    nothing = np.zeros_like(case.reference)
    small = CaseImages("c", case.image, nothing, {"r": nothing}, case.affine, case.whole).smaller(100)
    assert small.image.size <= 100 and small.step > 2


def test_picture_has_the_colour_of_the_kind_in_its_place(case):
    content, told = case.picture("r")
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert picture.shape == (128, 128, 3) and told.startswith("1 voxels of the slice agree, 1 missed, 2 extra, 1 with")
    y, x = (round((n + 0.5) * 128 / 30) for n in (10, 10))
    yellow, grey = picture[y, x], picture[100, 100]
    assert yellow[0] > 150 and yellow[1] > 150 and yellow[2] < 110 and abs(grey - 100).max() < 12


def test_ignored_voxels_are_neither_missed_nor_extra(tmp_path):
    reference, prediction = np.zeros((2, 8, 8, 8), dtype=np.uint8)
    reference[2:4, 2:4, 2:4], prediction[2:4, 2:4, 2:5], reference[5:, 5:, 5:], prediction[5:, 5:, 5:] = 1, 1, 9, 1
    for folder, array in (("images", reference + 1), ("labels", reference), ("tuned", prediction)):
        (tmp_path / folder).mkdir()
        name = "a_0000.nii.gz" if folder == "images" else "a.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / folder / name)
    settings = {"reference": str(tmp_path / "labels"), "prediction": str(tmp_path / "tuned"), "ignore": 9}
    for name in ("one", "two"):
        write_result(
            tmp_path / f"{name}.json", RunResult(kind="evaluation", settings=settings, scores=scores(a=(1, 1)))
        )
    case = read_case("a", read_runs([str(tmp_path / "one.json"), str(tmp_path / "two.json")]))
    for run in ("one", "two"):
        found = case.disagreement(run)
        assert {int(v): int((found == v).sum()) for v in np.unique(found) if v} == {AGREED: 8, EXTRA: 4}


def test_pictures_are_the_last_of_each_kind_and_no_others(tmp_path):
    for name in (
        "a/epoch_0001.png",
        "a/epoch_0002.png",
        "b/epoch_0001.png",
        "progress.png",
        "c/mine.png",
        "d/e/epoch_1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" if name.startswith("a") else b"<svg>")
    write_result(tmp_path / "pretraining_summary.json", RunResult(kind="pretraining"))
    (run,) = read_runs([str(tmp_path)])
    assert [str(path.relative_to(tmp_path)) for path in run.parts[0].pictures] == [
        "a/epoch_0002.png",
        "b/epoch_0001.png",
    ]
    shown = run_section(run, 0)
    assert shown.count("<img") == 1 and "epoch_0001.png is no PNG file" in shown
    write_result(tmp_path / "probe.json", RunResult(kind="reconstruction"))
    (tmp_path / "probe_worst.png").write_bytes(b"")
    assert [path.name for path in read_runs([str(tmp_path / "probe.json")])[0].parts[0].pictures] == ["probe_worst.png"]


def test_study_is_shown_as_a_table(tmp_path):
    table = [
        {"arm": "scratch", "fraction": 5, "dice": {"mean": 0.5, "low": 0.25, "high": 0.75}, "difference": None},
        {
            "arm": "<i>",
            "fraction": 5,
            "dice": {"mean": None, "low": None, "high": None},
            "regions": {"WT": {"x": [1, 2]}},
        },
    ]
    write_result(tmp_path / "result.json", RunResult(kind="study", extra={"table": table, "warnings": ["Beware"]}))
    shown = run_section(read_runs([str(tmp_path)])[0], 0)
    assert "0.500 [0.250, 0.750]" in shown and "&lt;i&gt;" in shown and '<th scope="col">fraction</th>' in shown
    assert "Beware" in shown and "table[0]" not in shown


@pytest.mark.parametrize(
    "content",
    [
        {"exposure": {"runs": 3}},
        {"exposure": {"runs": ["x", {"releases": [1], "whole": 7, "train": {"a": 1}}]}},
        {"extra": {"table": 3}},
        {"extra": {"table": [3]}},
        {"extra": {"deep": [[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]}},
        {"settings": {"x" * 1000: "y" * 1000}},
    ],
)
def test_entries_of_any_shape_are_shown(content, tmp_path):
    result = RunResult(kind="pretraining", **content)
    path = tmp_path / "pretraining_summary.json"
    write_result(path, result)
    run = read_runs([str(path)])[0]
    assert run.parts == (RunPart("", path, result),) and "A result of kind pretraining" in run_section(run, 0)
