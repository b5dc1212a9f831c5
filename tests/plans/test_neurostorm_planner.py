"""Sizes of NeuroSTORM for a memory target."""

from typing import Any

import pytest

from bdfm_nnunet.cost_records import Costs
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans import neurostorm_planner
from bdfm_nnunet.plans.memory_targets import configuration_costs, memory_gb
from bdfm_nnunet.plans.neurostorm_planner import SIZES, choose_network, sizes_for
from bdfm_nnunet.plans.run_fingerprint import RunFingerprint
from tests.plans.planted_runs import DATASET

MEMORIES = (0.35, 0.6, 1, 2, 4, 8, 24, 80)


def _runs(shape: tuple[int, ...] = (96, 96, 96), frames: int = 400, cases: int = 50) -> RunFingerprint:
    counts = {f"run{number}": frames for number in range(cases)}
    return RunFingerprint(shape=shape, spacing=(2.0, 2.0, 2.0), repetition_time=0.8, frames=counts)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs as they are counted for the published grid, but for the time that counting takes."""

    def costs(configuration: dict[str, Any], **_: Any) -> Costs:
        kwargs = configuration["architecture"]["arch_kwargs"]
        width, frames = kwargs["features_per_stage"][0], configuration["patch_size"][3]
        sample = round(2.043 * 2**30 * frames / 20 * (width / 36) * (1 if kwargs["depths"][2] == 6 else 0.9))
        return Costs(parameters=1, activation_bytes=sample, state_bytes=width * 3_000_000)

    monkeypatch.setattr(neurostorm_planner, "configuration_costs", costs)


@pytest.mark.usefixtures("quick")
def test_more_memory_never_gives_less() -> None:
    chosen = [choose_network(_runs(), DATASET, memory) for memory in MEMORIES]
    rows = [(each["architecture"]["arch_kwargs"]["features_per_stage"][0], each["patch_size"][3]) for each in chosen]
    samples = [each["batch_size"] * each["patch_size"][3] for each in chosen]
    assert rows == sorted(rows) and samples == sorted(samples)
    assert [row[1] for row in rows] == sorted(row[1] for row in rows) and len(set(rows)) > 3
    published = chosen[-1]
    assert published["patch_size"] == [96, 96, 96, 20] and published["batch_size"] == 8
    kwargs = published["architecture"]["arch_kwargs"]
    assert kwargs["features_per_stage"] == [36, 72, 144, 288] and kwargs["depths"] == [2, 2, 6, 2]
    assert kwargs["window_size"] == [4, 4, 4, 4] and not kwargs["legacy"]


@pytest.mark.usefixtures("quick")
def test_a_batch_holds_little_of_the_data() -> None:
    assert choose_network(_runs(cases=2), DATASET, 80)["batch_size"] == 2
    assert choose_network(_runs(cases=4), DATASET, 80)["batch_size"] == 4


@pytest.mark.usefixtures("quick")
def test_clips_are_no_longer_than_the_runs() -> None:
    assert [size.frames for size in sizes_for(9)] == [4, 8, 8, 9, 9] and len(sizes_for(20)) == len(SIZES)
    assert choose_network(_runs(frames=9), DATASET, 24)["patch_size"] == [96, 96, 96, 9]
    with pytest.raises(InputError, match="run run0 has 3 frames"):
        choose_network(_runs(frames=3), DATASET, 24)


@pytest.mark.usefixtures("quick")
def test_too_little_memory_names_what_is_enough() -> None:
    with pytest.raises(InputError, match=r"--gpu-memory 0\.1 is too little for any network: give at least") as caught:
        choose_network(_runs(), DATASET, 0.1)
    enough = float(str(caught.value).split("give at least ")[1].split()[0])
    assert choose_network(_runs(), DATASET, enough)["patch_size"][3] == 4
    with pytest.raises(InputError):
        choose_network(_runs(), DATASET, enough - 0.002)


@pytest.mark.parametrize("memory", [0.01, 0.02, 0.05, 1])
def test_what_was_counted_fits(memory: float) -> None:
    chosen = choose_network(_runs((24, 24, 12)), DATASET, memory)
    costs = configuration_costs(chosen, channels=1, classes=2)
    assert memory_gb(costs, chosen["batch_size"]) <= memory
