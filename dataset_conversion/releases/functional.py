"""Functional MRI: releases of 4-D runs."""

from dataclasses import replace
from typing import Any

from bdfm_nnunet.dataset_conversion.reading.functional_layout import (
    BOLD,
    BRAIN,
    FAMILY_COLUMNS,
    FMRIPREP,
    RUN_OF_BIDS,
    fmriprep_files,
)
from bdfm_nnunet.dataset_conversion.release import Release, RunRules, Source, Table

_HCP_TERMS = "HCP open access data use terms; family and other restricted data under terms of their own"
_NDA_TERMS = "NIMH Data Archive, data use certification"
_HCP_URL = "https://www.humanconnectome.org"
_FROM_MEMORY = "the layout is from public descriptions, not checked against the data"
_FAMILIES = (
    "the family column lies in a table under terms of its own: name it with --families, so that no family is on two "
    "sides of a split"
)
_HCP_RULES: dict[str, Any] = {
    "runs": RunRules(
        confounds=(r"(?:.*/)?(?P<subject>{case})/MNINonLinear/Results/(?P<run>[^/]+)/Movement_Regressors\.txt",),
        task_pattern=r"[rt]fMRI_([A-Za-z]+)",
    ),
    "case_name": "{subject}_{run}",
    "case_folder": "",
    **BRAIN,
}
_TABLE_OF_HCP = Table(r"(?:.*/)?(?:un)?restricted[^/]*\.csv", id=("Subject",), family=FAMILY_COLUMNS)


def _hcp_file(ending: str = "") -> Source:
    """Return the path of a run of the HCP pipelines; `{case}` is the folder of the subject."""
    run = r"(?P<run>[rt]fMRI_[A-Za-z0-9]+(?:_[A-Z]{2})?)"
    return Source(rf"(?:.*/)?(?P<subject>{{case}})/MNINonLinear/Results/{run}/(?P=run){ending}")


_HCP_MASK = (Source(r"(?:.*/)?(?P<subject>{case})/MNINonLinear/Results/(?P<run>[^/]+)/brainmask_fs\.2(?:\.0)?"),)

_HCP_YA = Release(
    name="fmri-hcp-ya",
    title="HCP Young Adult (S1200): runs at rest and of seven tasks in MNI space",
    dataset_name="HCPYA",
    case_pattern=r"\d{6}",
    patient_pattern=r"^(\d{6})_",
    channels={BOLD: _hcp_file()},
    extra_channels={"clean": _hcp_file("_hp2000_clean")},
    label=_HCP_MASK,
    tables=(_TABLE_OF_HCP,),
    **_HCP_RULES,
    licence=_HCP_TERMS,
    url=f"{_HCP_URL}/study/hcp-young-adult",
    citation="Van Essen et al., doi:10.1016/j.neuroimage.2013.05.041; Glasser et al., "
    "doi:10.1016/j.neuroimage.2013.04.127",
    notes=(
        "--channels clean takes the runs that FIX has cleaned (rest only)",
        "most subjects have brothers and sisters among the others, twins above all",
        _FAMILIES,
        "files in one flat folder, without the folders of HCP: use fmri-folder",
    ),
)
_HCP_LIFESPAN: dict[str, Any] = {
    "session_pattern": r"_(V\d)_MR_",
    "channels": {BOLD: _hcp_file()},
    "extra_channels": {"clean": _hcp_file("_hp0_clean")},
    "label": _HCP_MASK,
    **_HCP_RULES,
    "licence": _NDA_TERMS,
}
_HCP_A = Release(
    name="fmri-hcp-a",
    title="HCP Aging: runs at rest and of tasks in MNI space",
    dataset_name="HCPA",
    case_pattern=r"HCA\d{7}_V\d_MR",
    patient_pattern=r"^(HCA\d{7})_",
    **_HCP_LIFESPAN,
    url=f"{_HCP_URL}/study/hcp-lifespan-aging",
    citation="Bookheimer et al., doi:10.1016/j.neuroimage.2018.10.009",
    notes=("--channels clean takes the runs that FIX has cleaned", _FROM_MEMORY),
)
_HCP_D = Release(
    name="fmri-hcp-d",
    title="HCP Development: runs at rest and of tasks in MNI space",
    dataset_name="HCPD",
    case_pattern=r"HCD\d{7}_V\d_MR",
    patient_pattern=r"^(HCD\d{7})_",
    **_HCP_LIFESPAN,
    url=f"{_HCP_URL}/study/hcp-lifespan-development",
    citation="Somerville et al., doi:10.1016/j.neuroimage.2018.08.050",
    notes=("--channels clean takes the runs that FIX has cleaned", _FAMILIES, _FROM_MEMORY),
)
_HCP_EP = Release(
    name="fmri-hcp-ep",
    title="HCP Early Psychosis: runs at rest in MNI space",
    dataset_name="HCPEP",
    case_pattern=r"\d{4}_\d{2}_MR",
    patient_pattern=r"^(\d{4})_",
    **{**_HCP_LIFESPAN, "session_pattern": r"^\d{4}_(\d{2})_MR_"},
    url=f"{_HCP_URL}/study/human-connectome-project-for-early-psychosis",
    citation="Jacobs et al., An Introduction to the Human Connectome Project for Early Psychosis (2024)",
    notes=("--channels clean takes the runs that FIX has cleaned", _FROM_MEMORY),
)
_ABCD = replace(
    FMRIPREP,
    name="fmri-abcd",
    title="ABCD: runs at rest and of tasks, preprocessed by fMRIPrep or ABCD-BIDS",
    dataset_name="ABCD",
    channels={
        BOLD: Source(r"(?:.*/)?{case}_space-MNI[A-Za-z0-9]*(?:_res-[A-Za-z0-9]+)?(?:_desc-preproc)?_bold"),
    },
    label=(Source(r"(?:.*/)?{case}_space-MNI[A-Za-z0-9]*(?:_res-[A-Za-z0-9]+)?_desc-brain_mask"),),
    patient_pattern=r"^sub-(NDARINV[A-Za-z0-9]+)",
    case_pattern=RUN_OF_BIDS.replace("sub-[A-Za-z0-9+]+", "sub-NDARINV[A-Za-z0-9]+", 1),
    licence=_NDA_TERMS,
    url="https://abcdstudy.org",
    citation="Casey et al., doi:10.1016/j.dcn.2018.03.001",
    notes=(_FAMILIES + " (column rel_family_id)", _FROM_MEMORY),
)
_UKB = Release(
    name="fmri-ukb",
    title="UK Biobank: runs at rest (field 20227), warped to MNI space",
    dataset_name="UKB",
    case_pattern=r"\d{7}(?:_20227_\d_\d)?",
    patient_pattern=r"^(\d{7})",
    session_pattern=r"_20227_(\d)_\d$",
    channels={
        BOLD: Source(r"(?:.*/)?{case}(?:/(?:.*/)?filtered_func_data_clean[^/]*MNI[^/]*|[._-][^/]*MNI[^/]*)?"),
    },
    extra_channels={"native": Source(r"(?:.*/)?{case}/(?:.*/)?filtered_func_data_clean")},
    case_folder="",
    runs=RunRules(task_pattern=r"$^()"),
    licence="UK Biobank material transfer agreement",
    url="https://biobank.ndph.ox.ac.uk/showcase/field.cgi?id=20227",
    citation="Alfaro-Almagro et al., doi:10.1016/j.neuroimage.2017.10.034",
    notes=(
        "filtered_func_data_clean lies in the space of the scanner: warp it to MNI first (applywarp with the warp in "
        "the folder reg), as filtered_func_data_clean_MNI or EID.nii.gz; runs that still lie in scanner space are "
        "refused",
        "--channels native --grid own takes the runs as they lie, for work that needs no common anatomy",
        _FROM_MEMORY,
    ),
)
_ADHD = Release(
    name="fmri-adhd200",
    title="ADHD-200: runs at rest of eight sites, by the Athena pipeline in MNI space",
    dataset_name="ADHD200",
    case_pattern=r"\d{7}_session_\d+_rest_\d+",
    patient_pattern=r"^(\d{7})_",
    session_pattern=r"_session_(\d+)_",
    channels={BOLD: Source(r"(?:.*/)?wmrda{case}")},
    extra_channels={"denoised": Source(r"(?:.*/)?snwmrda{case}"), "filtered": Source(r"(?:.*/)?sfnwmrda{case}")},
    case_folder="",
    tables=(Table(r"(?:.*/)?[^/]*phenotypic[^/]*\.(?:csv|tsv)", id=("ScanDir ID", "ScanDirID"), site=("Site",)),),
    runs=RunRules(task_pattern=r"_(rest)_"),
    licence="CC BY-NC",
    url="http://preprocessed-connectomes-project.org/adhd200",
    citation="Bellec et al., doi:10.1016/j.neuroimage.2016.06.034",
    notes=(
        "--channels denoised takes snwmrda (nuisance removed, smoothed), --channels filtered sfnwmrda (band-passed)",
        "sites are numbers in the phenotypic tables; repetition times differ between sites, 1.5 to 3 s",
        _FROM_MEMORY,
    ),
)
_COBRE = Release(
    name="fmri-cobre",
    title="COBRE: runs at rest of patients with schizophrenia and controls, in MNI space",
    dataset_name="COBRE",
    case_pattern=r"004\d{4}",
    patient_pattern=r"^(004\d{4})$",
    channels={BOLD: Source(r"(?:.*/)?fmri_{case}")},
    extra_channels={"raw": Source(r"(?:.*/)?{case}/session_1/rest_1/rest")},
    case_folder="",
    runs=RunRules(task_pattern=r"$^()"),
    licence="CC BY-NC",
    url="http://fcon_1000.projects.nitrc.org/indi/retro/cobre.html",
    citation="Aine et al., doi:10.1007/s12021-017-9338-9",
    notes=(
        "fmri_004xxxx.nii.gz is the preprocessed release on figshare; --channels raw --grid own takes the raw runs",
        _FROM_MEMORY,
    ),
)
_UCLA = replace(
    FMRIPREP,
    name="fmri-ucla",
    title="UCLA CNP (ds000030): runs at rest and of tasks, fMRIPrep with its old names",
    dataset_name="UCLA",
    overlaps=(),
    licence="CC0",
    url="https://openneuro.org/datasets/ds000030",
    citation="Poldrack et al., doi:10.1038/sdata.2016.110; Gorgolewski et al., doi:10.12688/f1000research.11964.2",
    notes=("confounds have their old names (FramewiseDisplacement), which are read too",),
)
_TCP = replace(
    FMRIPREP,
    name="fmri-tcp",
    title="Transdiagnostic Connectome Project (ds005237): runs at rest and of tasks, by fMRIPrep",
    dataset_name="TCP",
    licence="CC0",
    url="https://openneuro.org/datasets/ds005237",
    citation="Chopra et al., The Transdiagnostic Connectome Project (2025)",
    notes=("raw runs are published; preprocess them with fMRIPrep first, or use fmri-bids", _FROM_MEMORY),
)

FUNCTIONAL: dict[str, Release] = {
    release.name: release for release in (_HCP_YA, _HCP_A, _HCP_D, _HCP_EP, _ABCD, _UKB, _ADHD, _COBRE, _UCLA, _TCP)
}


def in_space(release: Release, space: str) -> Release:
    """Return a release in the layout of fMRIPrep with its runs in another space.

    Args:
        release: the table entry.
        space: as in `functional_layout.fmriprep_files`.

    Raises:
        InputError: not the form of a space.
    """
    return replace(release, **fmriprep_files(space))
