"""The reference page of the Python interface: which modules it shows, for mkdocstrings to fill."""

import bdfm_nnunet

HEAD = """# Python

Everything public has a docstring with shapes, units and errors, most of it with an example that tests run. Names with
a leading underscore may change at any time. Plain functions take tensors (B, C, *spatial) as nnU-Net gives them; masks
are True where something is masked.
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "Losses": ("losses",),
    "Masks": ("masking",),
    "Frequencies": ("frequency",),
    "Measures": ("metrics", "sharpness_metrics", "spectrum_metrics", "embedding_measures", "embedding_spectrum"),
    "Weights": ("checkpoints",),
    "Objectives: the seam": ("objectives.base",),
    "Tasks: the seam": ("tasks.task",),
    "Networks: one view of all": ("networks.encoders",),
    "Plans": ("plans",),
    "Conversion": ("dataset_conversion",),
    "Trainers": ("trainers",),
    "Scores": ("evaluation",),
    "Exposure": ("exposure",),
    "Results of runs": ("results",),
    "Errors": ("errors",),
}
"""Heading -> modules under `bdfm_nnunet`, all of whose public names are shown."""


def page() -> str:
    """Return the page as Markdown with mkdocstrings' marks."""
    way = [name for name in getattr(bdfm_nnunet, "__all__", ()) if not name.startswith("_")]
    parts = [HEAD]
    if way:
        parts += ["## From scans to scores", "", *(f"::: bdfm_nnunet.{name}\n" for name in way)]
    for heading, modules in GROUPS.items():
        parts += [f"## {heading}", "", *(f"::: bdfm_nnunet.{name}\n" for name in modules)]
    return "\n".join(parts)
