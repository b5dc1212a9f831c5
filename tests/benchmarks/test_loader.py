"""The goals of the loaders say what is compared with what, like for like among them."""

import loader

from harness import Times


def test_like_for_like_has_rows_of_its_own() -> None:
    seconds = {loader.OURS: [1.0], loader.OURS_ALL: [4.0], loader.SINGLE: [2.0], loader.THEIRS: [8.0]}
    trained = {loader.OURS_MIRRORED: [1.0], loader.OURS_SPATIAL: [3.0], loader.THEIRS_AUGMENTED: [20.0]}
    goals = loader.goals_of({"plain": {0: Times(seconds), 2: Times(seconds)}, "augmented": {0: Times(trained)}})
    same = "like for like"
    assert [goal for goal in goals if "workers 0" in goal[0]] == [
        (f"ours, one channel against nnU-Net, one-channel cases ({same}), workers 0: 3 times the crops/s", "2", False),
        (f"ours, four channels against nnU-Net, four channels ({same}), workers 0: 3 times the crops/s", "2", False),
        (
            "ours, one channel against nnU-Net, four channels (not alike: one channel, four with labels), "
            "workers 0: 3 times the crops/s",
            "8",
            True,
        ),
        (
            "ours, one channel, mirrored against nnU-Net, four channels, augmented (as each trains), "
            "workers 0: 3 times the crops/s",
            "20",
            True,
        ),
    ]
    assert len(goals) == 7
