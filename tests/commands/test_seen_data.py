"""`bdfm exposure --rules` and `bdfm rules`: what they print and their exit codes."""

import json
from pathlib import Path

import pytest
import torch

from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.cli import main
from bdfm_nnunet.exposure import Exposure, describe_run
from bdfm_nnunet.patients import CaseList
from tests.conftest import point_to
from tests.dataset_conversion.converted import dataset, row

OLD = Path(__file__).parents[1] / "golden" / "before" / "nnUNetTrainerBDFM.pth"


def _checkpoint(path: Path, release: str) -> Path:
    cases = CaseList("Dataset501_A", release, [{"case": "a"}], content={"release": release, "overlaps": []})
    exposure = Exposure().then(describe_run(cases, train=["a"], val=[], trainer="T", weights={}))
    torch.save({"network_weights": {"a": torch.ones(2)}, EXPOSURE: exposure.as_dict()}, path)
    return path


def test_exit_codes_are_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = str(_checkpoint(tmp_path / "free.pth", "ixi"))
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pth")
    assert main(["exposure", free, "--rules", "brats2026-ped", "-o", str(tmp_path / "out.json")]) == 0
    assert main(["exposure", free, "--rules", "brats2026-goat"]) == 3
    assert main(["exposure", str(OLD), "--rules", "brats2026-met"]) == 3
    assert main(["exposure", str(tmp_path / "plain.pth"), "--rules", "fomo26-open"]) == 4
    told = capsys.readouterr().out
    assert f"{free} under brats2026-ped: allowed" in told
    assert "forbidden: brats2023-gli, in Dataset502_BraTS2023GLI" in told and "says nothing about the cases" in told
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["checkpoint"] == free and found["rules"]["answer"] == "allowed"
    assert main(["exposure", str(tmp_path / "no.pth"), "--rules", "brats2026-met"]) == 2


def test_a_data_set_and_rules_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = point_to(tmp_path, monkeypatch) / "nnUNet_raw"
    dataset(raw / "Dataset200_Own", [row("a")], release="ixi")
    free = str(_checkpoint(tmp_path / "free.pth", "ixi"))
    out = str(tmp_path / "out.json")
    assert main(["exposure", free, "-d", "200", "--rules", "fomo26-methods", "-o", out]) == 3
    assert "cross-validation: 1 of 1 cases seen" in capsys.readouterr().out
    found = json.loads(Path(out).read_text())
    assert found["rules"]["answer"] == "forbidden" and found["counts"] == {"cross-validation": 1}
    assert main(["exposure", free, "-d", "200"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name a data set with -d, or the rules of a challenge with --rules"),
        (["--rules", "brats2026-met", "--fold", "0"], "--fold belongs to a data set: name it with -d"),
        (["--rules", "mets"], "there are no rules 'mets'"),
    ],
)
def test_what_cannot_be_asked(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exposure", str(OLD), *options]) == 2
    assert message in capsys.readouterr().err


def test_rules_are_listed_printed_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0
    assert "brats2026-goat  BraTS 2026, task 3" in capsys.readouterr().out
    assert main(["rules", "fomo26-methods", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    own = tmp_path / "own.json"
    own.write_text(json.dumps(content | {"allowed": ["ixi", "ixxi"]}))
    assert main(["exposure", str(_checkpoint(tmp_path / "free.pth", "ixi")), "--rules", str(own)]) == 0
    assert f"note: {own} names ixi, ixxi: no data set that bdfm knows" in capsys.readouterr().out
    assert main(["rules", str(own)]) == 0
    assert "allowed: ixi" in capsys.readouterr().out
    assert main(["rules", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5
