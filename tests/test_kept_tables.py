import torch

from bdfm_nnunet.kept_tables import kept


def test_results_are_kept_up_to_a_number() -> None:
    calls = []

    @kept(maxsize=2)
    def table(size: int, *, double: bool = False) -> torch.Tensor:
        """Numbers."""
        calls.append(size)
        return torch.arange(2 * size if double else size)

    assert table(3) is table(3) and len(table(3, double=True)) == 6
    assert calls == [3, 3]
    table(4), table(5), table(3)
    assert calls == [3, 3, 4, 5, 3]
    assert table.__name__ == "table" and table.__doc__ == "Numbers."


def test_compiled_functions_take_the_result_as_it_is() -> None:
    @kept(maxsize=2)
    def even(size: int) -> tuple[torch.Tensor, int]:
        numbers = torch.arange(size)
        found = numbers[numbers % 2 == 0]  # its size depends on data, which no graph can hold
        return found, found.tolist()[-1]

    def function(tensor: torch.Tensor) -> torch.Tensor:
        table, last = even(7)
        return tensor[table] + last

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert compiled(torch.arange(10)).tolist() == [6, 8, 10, 12]


def test_a_table_made_while_predicting_serves_a_training() -> None:
    @kept(maxsize=1)
    def factors(size: int) -> torch.Tensor:
        return torch.arange(size).float()

    weight = torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        assert (weight * factors(3)).sum() == 3
    (weight * factors(3)).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [0, 1, 2]
