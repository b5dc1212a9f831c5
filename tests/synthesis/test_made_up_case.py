from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.synthesis.made_up_case import draw_case
from bdfm_nnunet.synthesis.synthesis_settings import SynthesisSettings
from bdfm_nnunet.synthesis.tissue_tables import HEAD
from tests.synthesis.tiny_heads import LABELS, tiny_head


def settings(**changes: Any) -> SynthesisSettings:
    channels = {"channels": ("t1", "flair"), "tissues": HEAD, "contrasts": "named", "warp": 1.0}
    return SynthesisSettings(**{**channels, **changes})


def test_a_case_depends_on_its_number_and_the_seed_alone() -> None:
    first, again, other = (draw_case(tiny_head(), settings(), number) for number in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first.images, again.images))
    assert not np.array_equal(first.images[0][:10, :10, :10], other.images[0][:10, :10, :10])
    seeded = draw_case(tiny_head(), settings(seed=1), 3)
    assert not np.array_equal(first.images[0], seeded.images[0])


@pytest.mark.parametrize(
    "change",
    [{"warp": 3.0}, {"bias": 0.5}, {"noise": 0.2}, {"thickest_slice": 0.0}, {"lesions": 1.0}, {"cavities": 1.0},
     {"skull_strip": True}, {"spacing": 1.5}, {"contrasts": "free"}, {"tissues": {2: "white", 41: "fluid"}}],
)  # fmt: skip
def test_every_setting_acts(change: dict[str, Any]) -> None:
    plain, changed = (draw_case(tiny_head(), settings(**more), 1) for more in ({}, change))
    assert not all(np.array_equal(a, b) for a, b in zip(plain.images, changed.images))


def test_without_lesions_the_same_heads_are_drawn() -> None:
    sick, well = (draw_case(tiny_head(), settings(lesions=share, noise=0.0), 2) for share in (1.0, 0.0))
    same = sick.images[0] == well.images[0]
    assert 0.3 < same.mean() < 1, "the skull and what is around it"


def test_the_skull_is_stripped() -> None:
    case = draw_case(tiny_head(), settings(skull_strip=True, classes={511: "skin", 2: "white"}), 0)
    image = case.images[0]
    assert 0.1 < (image > 0).mean() < 0.5
    assert 1 not in case.label, "skin"
    assert (image[case.label == 2] > 0).all()
    whole = draw_case(tiny_head(), settings(skull_strip=True), 0)
    assert np.array_equal(whole.label > 0, whole.images[0] > 0)
    assert np.array_equal(whole.images[0] > 0, whole.images[1] > 0)


def test_pieces_beside_the_brain_are_stripped() -> None:
    head = tiny_head()
    head.codes[1:3, 1:3, 1:3] = LABELS.index(2)
    case = draw_case(head, settings(skull_strip=True, warp=0.0), 0)
    assert ndimage.label(case.label)[1] == 1


def test_labels_lie_on_the_image() -> None:
    """White matter of T1 is brighter than grey, and so is what is labelled so; at a spacing other than the map's."""
    classes = {2: "white", 41: "white", 3: "grey", 42: "grey"}
    case = draw_case(tiny_head(), settings(classes=classes, spacing=1.5, bias=0.0), 5)
    means = [case.images[0][case.label == value].mean() for value in (1, 2)]
    assert means[0] > 1.15 * means[1]
    assert case.spacing == (1.5, 1.5, 1.5)


def test_voxels_keep_their_places() -> None:
    """The centre of the head is where it was, at any spacing."""
    head = tiny_head()
    wanted = np.argwhere(head.codes > 0).mean(axis=0)
    for spacing in (0.0, 0.7, 2.0):
        case = draw_case(head, settings(spacing=spacing, warp=0.0), 0)
        found = case.affine[:3, :3] @ np.argwhere(case.label > 0).mean(axis=0) + case.affine[:3, 3]
        assert found == pytest.approx(wanted, abs=0.4)


def test_a_table_of_another_kind_of_maps_is_refused() -> None:
    with pytest.raises(InputError, match="tiny holds no label that the table of tissues calls tissue"):
        draw_case(tiny_head(), settings(tissues={9999: "white"}), 0)
    with pytest.raises(InputError, match="calls brain"):
        draw_case(tiny_head(), settings(tissues={511: "skin", 9999: "white"}, skull_strip=True), 0)
