"""What visible.py tells of its arms."""

import pytest
import visible

from harness import Times

NAMES = {arm: f"cubic {arm} fp32" for arm in visible.QUICK_ARMS}
TIMES = Times({NAMES["all"]: [2.0, 3.0, 4.0], NAMES["visible-75"]: [1.0, 1.5, 1.0]})
ENDS = {NAMES["all"]: {"memory": 8}, NAMES["visible-75"]: {"memory": 5}}


def test_goals_on_a_processor_are_shares_of_time_and_memory() -> None:
    time, memory = visible.goals_of(TIMES, ENDS, NAMES, "cpu", "cubic encoder")
    assert time == ("visible-75 against all, cubic encoder on cpu: at most 0.6 of the time", "0.5 (0.25 to 0.5)", True)
    assert memory[1:] == ("0.62", False)


def test_the_goal_on_cuda_says_what_it_is_compared_with() -> None:
    (eager,) = visible.goals_of(TIMES, ENDS, NAMES, "cuda", "cubic encoder")
    assert "against all (eager)" in eager[0] and eager[1:] == ("2 (2 to 4)", False)
    names = NAMES | {"all": NAMES["all"] + " compiled"}
    times = Times({names["all"]: TIMES.seconds[NAMES["all"]], names["visible-75"]: [0.5] * 3})
    (compiled,) = visible.goals_of(times, ENDS, names, "cuda", "cubic encoder")
    assert "against all (compiled)" in compiled[0] and compiled[2]
    assert visible.goals_of(times, ENDS, {"all": names["all"]}, "cuda", "cubic encoder") == []


@pytest.mark.parametrize("arm", visible.ARMS)
def test_arms_hide_blocks_of_32_voxels(arm: str) -> None:
    objective = visible.objective("published", arm)
    assert objective.block_voxels == (32, 32, 32) and objective.encodes_all == (arm == "all")
    assert objective.view.strides[-1] == (4, 32, 32)
