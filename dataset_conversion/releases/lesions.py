"""Stroke lesions."""

from bdfm_nnunet.dataset_conversion.release import Release, Source, Table

_LABELS = {1: "stroke lesion"}
_REGIONS = {"lesion": (1,)}

_ATLAS_FILE = r"(?:.*/)?{case}_space-MNI152NLin2009aSym"
_ATLAS = Release(
    name="atlas-r2",
    title="ATLAS R2.0: lesions after stroke on T1-weighted MRI",
    dataset_name="ATLASR2",
    case_pattern=r"sub-r\d{3}s\d{3}_ses-\d+",
    patient_pattern=r"^(sub-r\d{3}s\d{3})",
    session_pattern=r"_ses-(\d+)$",
    site_pattern=r"^sub-(r\d{3})s",
    channels={"T1w": Source(f"{_ATLAS_FILE}_T1w")},
    label=(Source(f"{_ATLAS_FILE}_label-L_desc-T1lesion_mask"),),
    labels=_LABELS,
    regions=_REGIONS,
    case_folder="",
    unlabelled_part=r"(?:^|/)Testing/",
    grid=(197, 233, 189),
    spacing=(1.0, 1.0, 1.0),
    tables=(Table(r"(?:.*/)?\d+_ATLAS_2\.0_MetaData\.xlsx", id=("Subject ID", "subject_id", "ID"), site=("Site",)),),
    submission_name="{case}_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz",
    licence="terms of use accepted with the request; the archive is encrypted and may not be passed on",
    url="http://fcon_1000.projects.nitrc.org/indi/retro/atlas.html",
    citation="Liew et al., doi:10.1038/s41597-022-01401-7",
    notes=(
        "the 300 cases of the folder Testing were published without lesions",
        "all sites of the testing part are sites of the training part too",
        "the column names of the metadata table are from memory; sites are known from the ids anyway",
    ),
)

_ISLES_FILE = r"(?:.*/)?{case}_ses-\d+"
_ISLES = Release(
    name="isles2022",
    title="ISLES 2022: acute stroke on diffusion MRI",
    dataset_name="ISLES2022",
    case_pattern=r"sub-strokecase\d{4}",
    patient_pattern=r"^(sub-strokecase\d{4})$",
    channels={"dwi": Source(f"{_ISLES_FILE}_dwi"), "adc": Source(f"{_ISLES_FILE}_adc")},
    extra_channels={"flair": Source(f"{_ISLES_FILE}_(?:FLAIR|flair)")},
    label=(Source(f"{_ISLES_FILE}_msk"),),
    labels=_LABELS,
    regions=_REGIONS,
    submission_name="{case}.nii.gz",
    licence="CC BY 4.0",
    url="https://doi.org/10.5281/zenodo.7153326",
    citation="Hernandez Petzsche et al., doi:10.1038/s41597-022-01875-5",
    notes=(
        "FLAIR has a grid of its own and is not registered to the diffusion images, on which the lesions were drawn: "
        "it can only be converted alone, with --channels flair --unlabelled",
        "three of the 250 segmentations are empty",
    ),
)

LESIONS = {release.name: release for release in (_ATLAS, _ISLES)}
