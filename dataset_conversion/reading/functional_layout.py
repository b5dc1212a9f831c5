"""The releases `fmri-bids`, `fmri-fmriprep` and `fmri-folder`: 4-D runs of any study."""

import re
from typing import Any

from bdfm_nnunet.dataset_conversion.path_patterns import CASE
from bdfm_nnunet.dataset_conversion.reading.bids_layout import PARTICIPANTS
from bdfm_nnunet.dataset_conversion.reading.folder_layout import expression_of
from bdfm_nnunet.dataset_conversion.reading.own_data import OWN_DATA, dataset_name
from bdfm_nnunet.dataset_conversion.release import Release, RunRules, Source, Table
from bdfm_nnunet.dataset_conversion.release_json import check_entry
from bdfm_nnunet.errors import InputError

BOLD = "bold"
BRAIN: dict[str, Any] = {"labels": {1: "brain"}, "regions": {"brain": (1,)}}
"""Fields of a release with brain masks."""
MNI = "MNI152NLin2009cAsym"
_VALUE = r"[A-Za-z0-9+]+"
_SPACE = re.compile(rf"{_VALUE}(?:_res-{_VALUE})?")
RUN_OF_BIDS = rf"sub-{_VALUE}(?:_ses-{_VALUE})?_task-{_VALUE}(?:_(?!space-|res-|desc-)[a-z]+-{_VALUE})*"
"""A case id: the entities of a run without those of its derivatives."""
_RAW = r"(?:(?!(?:derivatives|sourcedata|code)/)[^/]+/)*"
FAMILY_COLUMNS = ("Family_ID", "family_id", "rel_family_id", "family")
PEOPLE = Table(r"(?:.*/)?participants\.tsv", id=PARTICIPANTS.id, site=PARTICIPANTS.site, family=FAMILY_COLUMNS)
BIDS_FIELDS: dict[str, Any] = {
    "case_pattern": RUN_OF_BIDS,
    "patient_pattern": rf"^(sub-{_VALUE})",
    "session_pattern": rf"_ses-({_VALUE})",
    "case_folder": "",
    "tables": (PEOPLE,),
}
"""Fields of every release whose runs are named by the entities of BIDS."""

FMRI_BIDS = Release(
    name="fmri-bids",
    title="a BIDS data set: raw 4-D runs (bold)",
    dataset_name="FMRIBIDS",
    channels={BOLD: Source(rf"{_RAW}{CASE}_bold")},
    runs=RunRules(template=False),
    **BIDS_FIELDS,
    **OWN_DATA,
    notes=(
        "raw runs are neither corrected for motion nor registered: use fMRIPrep first where anatomy is to be the same "
        "in all subjects",
        "patient keys such as sub-01 mean something inside their own data set alone",
    ),
)


def fmriprep_files(space: str = MNI) -> dict[str, Any]:
    """Return the fields of a release that tell where fMRIPrep puts runs, masks and confounds, in both of its namings.

    Args:
        space: the runs' space, and their resolution if there are several: `MNI152NLin6Asym_res-2`.

    Raises:
        InputError: not the form of a space.
    """
    if not _SPACE.fullmatch(space):
        raise InputError(f"the space {space!r} has no form of BIDS: write it as {MNI}, or as {MNI}_res-2")
    space = space if "_res-" in space else rf"{re.escape(space)}(?:_res-{_VALUE})?"
    before = rf"(?:.*/)?{CASE}"
    return {
        "channels": {BOLD: Source(rf"{before}(?:_space-{space}_desc-preproc_bold|_bold_space-{space}_preproc)")},
        "label": (Source(rf"{before}(?:_space-{space}_desc-brain_mask|_bold_space-{space}_brainmask)"),),
        "runs": RunRules(
            confounds=(
                rf"{before}_desc-confounds_timeseries\.tsv",
                rf"{before}_desc-confounds_regressors\.tsv",
                rf"{before}_bold_confounds\.tsv",
            ),
            template="MNI" in space,
        ),
    }


def fmriprep_release(space: str = MNI, name: str = "FMRIPrep") -> Release:
    """Return an entry for the derivatives of fMRIPrep, of any version.

    Args:
        space: as in `fmriprep_files`.
        name: part of the data set's name after `DatasetXXX_`.

    Raises:
        InputError: not the form of a space or name.
    """
    return Release(
        name="fmri-fmriprep",
        title="derivatives of fMRIPrep, old and new names: preprocessed 4-D runs",
        dataset_name=dataset_name(name),
        **fmriprep_files(space),
        **BIDS_FIELDS,
        **BRAIN,
        **OWN_DATA,
        notes=(
            f"runs in {MNI}; --space names another one, with its resolution where there are several (NAME_res-2)",
            "patient keys such as sub-01 mean something inside their own data set alone",
        ),
    )


def fmri_folder_release(
    run: str = CASE,
    *,
    mask: str | None = None,
    confounds: str | None = None,
    patient: str | None = None,
    template: bool = False,
    name: str = "FMRI",
) -> Release:
    """Return an entry for runs whose files follow a pattern, as in `folder_layout.folder_release`.

    Args:
        run: pattern of the runs; by default every volume is one.
        mask: pattern of brain masks; None where there are none.
        confounds: pattern of the tables of confounds, with its ending.
        patient: regular expression that finds the patient (its group 1) in a case id; by default the case id.
        template: whether the runs lie in the space of the MNI template.
        name: part of the data set's name after `DatasetXXX_`.

    Raises:
        InputError: a pattern without `{case}`, a bad expression or name.
    """
    alone = run == CASE
    release = Release(
        name="fmri-folder",
        title="any folders: 4-D runs",
        dataset_name=dataset_name(name),
        case_pattern=r"(?s:.+)" if alone else r"[^/]+?",
        patient_pattern=patient or r"^(.+)$",
        channels={BOLD: Source(CASE if alone else expression_of(run))},
        label=() if mask is None else (Source(expression_of(mask)),),
        case_folder="",
        runs=RunRules(confounds=() if confounds is None else (expression_of(confounds),), template=template),
        **(BRAIN if mask is not None else {}),
        **OWN_DATA,
        notes=(
            "as it stands every volume is a run; patterns tell runs from masks and find confounds: --image "
            "bold='**/{case}_bold' --mask '**/{case}_mask' --confounds '**/{case}_confounds.tsv'",
            "every run counts as a patient of its own unless --patient tells them from the id",
        ),
    )
    check_entry(release)
    return release


FMRIPREP, FMRI_FOLDER = fmriprep_release(), fmri_folder_release()
