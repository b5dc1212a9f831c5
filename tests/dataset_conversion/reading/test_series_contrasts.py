"""Which channel a series is taken for: descriptions as scanners of all makers have them, and times alone."""

from dataclasses import replace
from typing import Any

import pytest

from bdfm_nnunet.dataset_conversion.reading.dicom_tree import without_names
from bdfm_nnunet.dataset_conversion.reading.series_contrasts import contrast_of
from bdfm_nnunet.images.dicom_headers import Identity, SeriesFacts

NOBODY = Identity(("", ""), "", "", "", "", "", "", frozenset())
UNKNOWN = SeriesFacts(
    NOBODY, 1, "", "", "MR", "", False, ("ORIGINAL", "PRIMARY", "M"), None, None, None, None, None, False, "", False,
    False, False,
)  # fmt: skip

DESCRIBED = {
    "T1": ["t1_mprage_sag_p2_iso", "MPRAGE", "Ax T1 FLAIR", "Sag 3D BRAVO", "T1W_3D_TFE", "sT1W_3D_TFE pre Gd",
           "t1_se_tra", "3D T1 FSPGR", "3DT1", "SagT1", "T1 no contrast", "T1 vor KM",
           "t1 posterior fossa", "3D T1 isotropic", "T1 TSE ohne KM"],
    "T1c": ["t1_mprage_sag_post", "T1 +C", "AX T1 POST GAD", "T1W_3D_TFE_Gd", "t1_tse_tra_km", "t1c", "T1 nach KM",
            "Sag T1 C+", "T1 SE MDC"],
    "T2": ["t2_tse_tra", "AX T2 FSE PROPELLER", "T2W_TSE", "Sag T2", "t2_space_sag_iso", "sT2W_TSE", "AXT2",
           "t2_tse_tra_RESTORE", "AX T2 ASSET"],
    "FLAIR": ["t2_space_dark-fluid_sag", "AX T2 FLAIR", "FLAIR longTR", "t2_tirm_tra_dark-fluid", "CUBE FLAIR"],
    "T2star": ["t2_fl2d_tra_hemo", "AX T2* GRE", "T2 star", "t2_gre"],
    "SWI": ["SWI_Images", "AX SWAN", "susceptibility"],
    "DWI": ["ep2d_diff_3scan_trace_TRACEW", "DWI b1000", "resolve_3scan_trace"],
    "ADC": ["ep2d_diff_3scan_trace_ADC", "Apparent Diffusion Coefficient (mm2/s)", "dADC Map"],
    "PD": ["pd_tse_tra", "PD FSE"],
    "": ["localizer", "AAHead_Scout", "3-Plane Loc", "TOF_3D_multi-slab", "ep2d_perf", "relCBF", "ep2d_bold_moco",
         "PhoenixZIPReport", "SURVEY", "gre_field_mapping", "MIP SWI", "t1_mprage MIP", "something else"],
}  # fmt: skip


@pytest.mark.parametrize("channel", DESCRIBED)
def test_descriptions(channel: str) -> None:
    found = {text: contrast_of(replace(UNKNOWN, description=text)).channel for text in DESCRIBED[channel]}
    assert found == dict.fromkeys(DESCRIBED[channel], channel)


@pytest.mark.parametrize(
    ("channel", "values"),
    [
        ("T1", {"kind": "GR", "echo_time": 2.3, "repetition_time": 2300.0, "inversion_time": 900.0}),
        ("T1", {"kind": "GR", "echo_time": 4.6, "repetition_time": 9.8}),
        ("T1", {"kind": "SE", "echo_time": 12.0, "repetition_time": 600.0}),
        ("T1c", {"kind": "SE", "echo_time": 12.0, "repetition_time": 600.0, "contrast": True}),
        ("T2", {"kind": "SE", "echo_time": 95.0, "repetition_time": 4500.0}),
        ("PD", {"kind": "SE", "echo_time": 14.0, "repetition_time": 2500.0}),
        ("FLAIR", {"kind": "SE\\IR", "echo_time": 120.0, "repetition_time": 9000.0, "inversion_time": 2500.0}),
        ("T2star", {"kind": "GR", "echo_time": 20.0, "repetition_time": 700.0}),
        ("DWI", {"kind": "EP\\SE", "echo_time": 90.0, "repetition_time": 6000.0, "b_value": 1000.0}),
        ("", {"kind": "SE", "echo_time": 50.0, "repetition_time": 1500.0}),
        ("", {"kind": "GR", "echo_time": 4.6}),
        ("", {"modality": "CT", "description": "t1"}),
        ("", {"image_type": ("ORIGINAL", "PRIMARY", "P"), "description": "t1"}),
        ("T1", {"contrast": True, "description": "t1 pre"}),
        ("T1c", {"contrast": True, "description": "t1"}),
        ("", {"description": "t1", "kind": "SE", "echo_time": 95.0, "repetition_time": 4500.0}),
    ],
)
def test_what_the_scanner_did(channel: str, values: dict[str, Any]) -> None:
    assert contrast_of(replace(UNKNOWN, **values)).channel == channel


def test_a_contradiction_is_told() -> None:
    odd = replace(UNKNOWN, description="t2_tse", kind="SE", echo_time=10.0, repetition_time=500.0)
    assert contrast_of(odd).note == "described as T2, but echo and repetition time are those of T1"


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        ("t1_mprage_sag", ["Doe^Jane", "42"], "t1_mprage_sag"),
        ("DOE jane t2_tse 20240131", ["Doe^Jane"], "t2_tse"),
        ("t1 31.01.2024 (O'Brien)", ["O'Brien^Pat"], "t1   (O"),
        ("T1_Mueller", ["Müller^Jo"], "T1"),
        ("T1 müller", ["Mueller"], "T1"),
        ("T2 ID-77/1x axial", ["ID-77/1x"], "T2   axial"),
        ("flair 1.2.840.113619.2.5.17", [], "flair"),
        ("t1Smith_ax", ["Smith^W"], "ax"),
        ("山田 t1", ["Yamada^Tarou=山田太郎^"], "山田 t1"),
        ("山田太郎 t1", ["Yamada^Tarou=山田太郎"], "t1"),
        ("t2\x1b[31m", [], "t2 [31m"),
        ("山田 t1", ["山田^太郎"], "t1"),
        ("t1 14Feb2019 pre", [], "t1   pre"),
        ("t1 March 3, 2020", [], "t1"),
        ("t1_mprage_1mm_3x3x3", ["20190214"], "t1_mprage_1mm_3x3x3"),
    ],
)
def test_descriptions_lose_names_and_dates(text: str, words: list[str], left: str) -> None:
    assert without_names(text, words) == left


def test_an_unknown_contrast_is_told() -> None:
    assert not contrast_of(UNKNOWN).channel and contrast_of(UNKNOWN).note == "contrast unknown"
