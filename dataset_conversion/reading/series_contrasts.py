"""The contrast of a series, by its description and by what the scanner did."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bdfm_nnunet.dataset_conversion.reading.dicom_tree import FoundSeries
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.dicom_headers import SeriesFacts

CHANNELS = {
    "T1": "T1-weighted, before any contrast agent",
    "T1c": "T1-weighted, after a contrast agent",
    "T2": "T2-weighted",
    "FLAIR": "T2-weighted, fluid suppressed",
    "PD": "weighted by proton density",
    "T2star": "T2*-weighted gradient echo",
    "SWI": "susceptibility-weighted",
    "DWI": "diffusion-weighted (trace)",
    "ADC": "apparent diffusion coefficient",
}
"""Channels that series are sorted to, and what they are."""
_START, _END = r"(?:^|(?<=[^a-z0-9]))", r"(?:$|(?=[^a-z]))"
_T = rf"{_START}(?:[23]d|ax|sag|cor|tra|s|e)?t"
_ASIDE = re.compile(
    rf"locali[sz]er|scout|pilot|survey|smartbrain|{_START}(?:3?-?pl(?:ane)?_?)?loc{_END}|calib|asset.?cal|{_START}ref{_END}"
    r"|phoenix|screen ?(?:save|capture)|report|b0.?map|field.?map|fieldmapping|shim"
    rf"|{_START}(?:perf|dsc|dce|asl|pcasl|pwi|cbf|cbv|mtt|ttp|tmax|bold|fmri|resting|rest{_END}|mra|tof|venc|qflow|spectr|svs|csi)"
    rf"|angio|{_START}mip{_END}|minip|{_START}pc_|tensor|{_START}(?:fa|colfa){_END}|tracew?_?map|elasto|{_START}q?sm{_END}"
)
_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("ADC", re.compile(rf"{_START}[ed]?adc{_END}|apparent|average dc")),
    ("DWI", re.compile(rf"{_START}(?:dwi|ep2d_diff|diff|dti|trace)|diffusion|resolve|b_?1000")),
    ("SWI", re.compile(rf"{_START}(?:swi|swan|venobold|swip)|suscept")),
    ("T1", re.compile(rf"{_T}1.{{0,5}}flair|mp-?2?rage|{_T}1|{_START}(?:bravo|f?spgr|tfl3d|vibe|3d_?tfe|ir-?fspgr)")),
    ("FLAIR", re.compile(r"flair|dark.?fluid|tirm")),
    ("T2star", re.compile(rf"t2\*|t2.?star|t2.?gre|{_START}(?:hemo|haemo|ffe|merge|medic)|t2_fl2d|gre_t2")),
    ("T2", re.compile(rf"{_T}2|{_START}(?:ciss|fiesta|drive|haste)")),
    ("PD", re.compile(rf"{_START}(?:pd|dp|rho){_END}|proton")),
)
_AFTER = re.compile(
    rf"post(?!er)|{_START}(?:gad|(?:gd|ce|km|mdc|t1c|t1ce|t1gd){_END}|\+?c{_END}(?!.?spine))"
    r"|\+ ?(?:c|gd|km|gad)|contrast|nach|enhanced"
)
_BEFORE = re.compile(
    rf"pre[-_ ]?(?:gd|gad|c|contrast|km)|without|w/o|ohne|vor[-_ ](?:gd|km)|senza|nativ"
    rf"|{_START}(?:pre|no|nc|non|sans|sin){_END}"
)
_CLEAR = {"T1", "T2", "FLAIR"}
"""Contrasts that echo and repetition time tell from one another."""


@dataclass(frozen=True)
class Proposal:
    """What a series seems to be.

    Attributes:
        channel: one of `CHANNELS`; empty if none, or if it is left aside.
        note: why.
    """

    channel: str
    note: str = ""


def contrast_of(facts: SeriesFacts) -> Proposal:
    """Return the channel of one series by what its first file tells; the note holds none of its words."""
    text = facts.description.casefold()
    kinds = {value.upper() for value in facts.image_type}
    if facts.modality != "MR":
        return Proposal("", f"modality {facts.modality or 'unknown'}")
    if aside := _ASIDE.search(text):
        return Proposal("", f"left aside for the word {aside[0].strip(' _-')}")
    if kinds & {"LOCALIZER", "PROJECTION IMAGE", "MIN_IP", "MAX_IP", "MIP", "P", "PHASE", "PHASE MAP", "CSA REPORT"}:
        return Proposal("", f"left aside as {', '.join(sorted(kinds & _SHOWN_KINDS)) or 'a projection or map'}")
    by_words = next((channel for channel, words in _WORDS if words.search(text)), "")
    if "ADC" in kinds:
        by_words = "ADC"
    by_numbers = _by_numbers(facts)
    if {by_numbers, by_words} <= _CLEAR and (by_numbers == "T1") != (by_words == "T1"):
        return Proposal("", f"described as {by_words}, but echo and repetition time are those of {by_numbers}")
    channel = by_words or by_numbers
    if channel == "T1" and _is_enhanced(facts, text):
        channel = "T1c"
    return Proposal(channel, "" if by_words else "by its times alone" if channel else "contrast unknown")


_SHOWN_KINDS = {"LOCALIZER", "PROJECTION IMAGE", "P", "PHASE", "PHASE MAP", "CSA REPORT"}


def _by_numbers(facts: SeriesFacts) -> str:
    """Return the contrast that times and angle make; empty if they are not known or not clear."""
    echo, repetition, inversion = facts.echo_time, facts.repetition_time, facts.inversion_time or 0.0
    if not echo or not repetition:
        return ""
    if "EP" in facts.kind and (facts.b_value or 0) > 0:
        return "DWI"
    if inversion > 1500 and echo > 60 and repetition > 4000:
        return "FLAIR"
    if "GR" in facts.kind:
        if echo < 8 and (repetition < 60 or 500 < inversion < 1500):
            return "T1"
        return "T2star" if echo > 12 else ""
    if "SE" not in facts.kind:
        return ""
    if echo < 35:
        return "T1" if repetition < 1200 else "PD" if repetition > 1800 else ""
    return "T2" if echo > 65 and repetition > 1800 else ""


def _is_enhanced(facts: SeriesFacts, text: str) -> bool:
    if _BEFORE.search(text):
        return False
    return facts.contrast or _AFTER.search(text) is not None


# ---------------------------------------------------------------------------------------------- one series each


def propose(series: Sequence[FoundSeries]) -> Mapping[str, Proposal]:
    """Return the proposal for each series, by name: at most one series of a case for each channel.

    Of several that is taken which is described as that, sound, not derived, of the smallest voxels, of most slices, or
    the last, in this order.
    """
    found = {each.name: contrast_of(each.facts) for each in series}
    rivals: dict[tuple[str, str], list[FoundSeries]] = {}
    for each in series:
        if channel := found[each.name].channel:
            rivals.setdefault((each.case, channel), []).append(each)
    for (_, channel), candidates in rivals.items():
        best = max(candidates, key=lambda each: (not found[each.name].note, _rank(each)))
        for each in candidates:
            if each is not best:
                found[each.name] = Proposal("", f"{channel} too; ser-{best.number} was taken")
    return found


def _rank(series: FoundSeries) -> tuple[bool, bool, float, int, str]:
    original = not {"DERIVED", "SECONDARY"} & {value.upper() for value in series.facts.image_type}
    try:
        stack = series.stack()
    except Refusal:
        return False, original, 0.0, len(series.frames), series.number
    across, down, apart = stack.spacing
    return True, original, -round(across * down * apart, 3), len(stack.frames), series.number
