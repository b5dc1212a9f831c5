"""Docstrings' examples run and print what they show; every public name of some parts has one.

An example sees its module's names. It runs with one thread and seeded generators, in a folder with the label maps of
three made-up cases, in labels/, and predictions of them, in predictions/.
"""

import doctest
import importlib
import inspect
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.test_imports import MODULES

PARTS_WITH_EXAMPLES = (
    "losses", "embedding_measures", "masking", "metrics", "sharpness_metrics", "spectrum_metrics", "embedding_spectrum",
    "frequency",
    "evaluation", "exposure", "results", "checkpoints", "objectives", "hashed_noise",
    "intensity_changes", "data.random_contrast",
)  # fmt: skip
"""Modules, or packages with all of their modules, in which every public function and class has an example."""

WITHOUT_EXAMPLE: set[str] = set()
"""Public names there that do without, as `module.name`, so that the list can only get shorter."""

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_PROMPT = [name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")]
COVERED = [name for name in MODULES if any(name == part or name.startswith(f"{part}.") for part in PARTS_WITH_EXAMPLES)]


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"bdfm_nnunet.{name}".rstrip("."))


def _public(module: ModuleType) -> dict[str, Any]:
    """Functions and classes that a module defines and names without an underscore, or in `__all__`."""
    listed = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    found = {name: getattr(module, name) for name in listed}
    return {
        name: value
        for name, value in found.items()
        if getattr(value, "__module__", None) == module.__name__
        and (inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value)))
    }


def _save(folder: Path, case: str, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / f"{case}.nii.gz")


def _make_files(root: Path) -> None:
    """A tumour of 8 x 8 x 8 mm: found as it is, shifted by 1 mm, and with a false lesion of 8 mm3 beside it."""
    labels = np.zeros((24, 24, 24), dtype=np.uint8)
    labels[4:12, 4:12, 4:12] = 2
    labels[5:11, 5:11, 5:11] = 1
    labels[5:11, 5:11, 5:8] = 3
    with_false = labels.copy()
    with_false[18:20, 18:20, 18:20] = 3
    for number, prediction in enumerate((labels, np.roll(labels, 1, axis=0), with_false), start=1):
        _save(root / "labels", f"BraTS-GLI-0000{number}-000", labels)
        _save(root / "predictions", f"BraTS-GLI-0000{number}-000", prediction)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    _make_files(root)
    return root


@pytest.mark.parametrize("name", WITH_PROMPT)
def test_examples_print_what_they_show(name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generators are seeded as for every test."""
    module = _import(name)
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    found = [each for each in doctest.DocTestFinder().find(module) if each.examples]
    assert found, "doctest finds none"
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for each in found:
        runner.run(each)
    assert not runner.failures, f"see the output above: {runner.failures} of {runner.tries} examples differ"


def test_public_names_have_examples() -> None:
    without = {
        f"{name}.{key}"
        for name in COVERED
        for key, value in _public(_import(name)).items()
        if ">>> " not in (inspect.getdoc(value) or "")
    }
    assert without - WITHOUT_EXAMPLE == set(), "add a short example to the docstring"
    assert without >= WITHOUT_EXAMPLE, "take it off the list"


def test_parts_exist() -> None:
    assert all(any(name == part or name.startswith(f"{part}.") for name in MODULES) for part in PARTS_WITH_EXAMPLES)


def test_a_public_name_without_an_example_is_found() -> None:
    module = ModuleType("made_up")
    exec("def shown(): ...\ndef _hidden(): ...\nfrom pathlib import Path\n", vars(module))
    assert set(_public(module)) == {"shown"}
