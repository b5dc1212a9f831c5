from dataclasses import replace

import numpy as np
import pytest

from bdfm_nnunet.data.phantom import Grid, draw_lesion
from bdfm_nnunet.synthesis.drawn_lesions import Growth, draw_growths, source_points, with_lesions
from bdfm_nnunet.synthesis.tissue_tables import HEAD, LESION_PARTS
from tests.synthesis.tiny_heads import LABELS, tiny_head

GRID = Grid((41, 41, 41), (1.0, 1.0, 1.0))
CENTRE = np.zeros(3, np.float32)
FREE = np.ones(GRID.shape, np.float32)


def _radius(points: np.ndarray) -> np.ndarray:
    radius: np.ndarray = np.sqrt((points**2).sum(axis=0))
    return radius


@pytest.mark.parametrize("push", [6.0, -6.0])
def test_free_tissue_keeps_its_volume(push: float) -> None:
    """The determinant of the deformation, by differences, is 1 outside of the lesion."""
    points = source_points(GRID, CENTRE, push, FREE)
    jacobian = np.stack([np.stack(np.gradient(axis)) for axis in points])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    shell = _radius(np.stack(np.meshgrid(*GRID.axes(), indexing="ij")))
    assert determinant[(shell > 10) & (shell < 18)] == pytest.approx(1, abs=0.05)


def test_tumours_push_out_and_cavities_draw_in() -> None:
    here = _radius(np.stack(np.meshgrid(*GRID.axes(), indexing="ij")))
    outside = (here > 8) & (here < 15)
    pushed, drawn = (_radius(source_points(GRID, CENTRE, push, FREE)) for push in (6.0, -6.0))
    assert (pushed[outside] < here[outside]).all()
    assert (drawn[outside] > here[outside]).all()
    still = source_points(GRID, CENTRE, 6.0, np.zeros_like(FREE))
    assert np.allclose(still, np.stack(np.meshgrid(*GRID.axes(), indexing="ij")))


def _head_with(growths: list[Growth]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    head = replace(tiny_head(), spacing=(3.0, 3.0, 3.0))
    tissues = [*head.tissue_of(HEAD), *LESION_PARTS]
    return head.codes, with_lesions(head.codes, head.grid, tissues, growths), tissues


def _small(seed: int) -> Growth:
    lesion = replace(draw_lesion(np.random.default_rng(seed)), core_mm=10.0, rim_mm=4.0, oedema_mm=2.0)
    return Growth(lesion, False, 9.5)


def test_lesions_are_in_the_brain_and_leave_the_rest_of_the_head_alone() -> None:
    codes, found, tissues = _head_with([_small(0)])
    parts = {tissues[code] for code in np.unique(found)}
    assert {"necrosis", "oedema", "enhancing"} <= parts
    assert "cavity" not in parts
    outside = np.isin(codes, [0, LABELS.index(511), LABELS.index(515)])
    assert np.array_equal(found[outside], codes[outside])
    white = [LABELS.index(2), LABELS.index(41)]
    moved = np.isin(found, range(len(LABELS))) & (found != codes)
    assert moved.any(), "the mass moves healthy tissue"
    assert np.isin(codes, white).sum() > np.isin(found, white).sum()


def test_cavities_are_fluid_and_lie_above_tumours() -> None:
    cavity = replace(_small(0), cavity=True, push=-2.0)
    _, found, tissues = _head_with([_small(0), cavity])
    names = np.array(tissues)[found]
    assert (names == "cavity").sum() > 20
    assert "necrosis" not in names


def test_no_lesion_changes_nothing() -> None:
    codes, found, _ = _head_with([])
    assert np.array_equal(codes, found)


def test_shares_are_kept() -> None:
    drawn = [draw_growths(np.random.default_rng(seed), lesions=0.6, cavities=0.3) for seed in range(300)]
    tumours = [sum(not growth.cavity for growth in growths) for growths in drawn]
    assert 0.5 < np.mean([count > 0 for count in tumours]) < 0.7
    assert 0.2 < np.mean([any(growth.cavity for growth in growths) for growths in drawn]) < 0.4
    assert max(tumours) == 2
    assert all((growth.push < 0) == growth.cavity for growths in drawn for growth in growths)
