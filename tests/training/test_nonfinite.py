import torch

from bdfm_nnunet.training.nonfinite import LossWatch


def test_values_arrive_in_order_and_those_that_are_not_finite_are_named() -> None:
    watch = LossWatch([{"loss": 1.0}])
    watch.put(2, ["a", "b"], {"loss": torch.tensor(2.0), "pixel": torch.tensor(0.5, dtype=torch.bfloat16)})
    assert watch.outputs == [{"loss": 1.0}, {"loss": 2.0, "pixel": 0.5}] and not watch.broken
    watch.put(3, ["c"], {"loss": torch.tensor(float("nan")), "pixel": torch.tensor(1.0)})
    watch.put(4, ["d"], {"loss": torch.tensor(float("-inf"))})
    watch.settle()
    assert [step["step"] for step in watch.broken] == [3, 4]
    assert watch.broken[0] == {"step": 3, "keys": ["c"], "terms": {"loss": "nan", "pixel": 1.0}}
    assert watch.broken[1]["terms"] == {"loss": "-inf"}
