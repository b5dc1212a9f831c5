import torch

from bdfm_nnunet.checkpoints.readers import READERS, reader_of
from bdfm_nnunet.checkpoints.readers.plain_reader import PlainReader


def test_it_is_the_last_resort() -> None:
    assert isinstance(READERS[-1], PlainReader)
    assert reader_of({"state_dict": {"a": torch.ones(1)}}) is READERS[-1]
    assert reader_of({}) is READERS[-1]


def test_entries_of_ours_are_believed_but_plans_only_beside_nnunets_weights() -> None:
    origin = PlainReader().origin({"bdfm_exposure": 5, "init_args": {"plans": {}, "configuration": "c"}})
    assert origin.exposure == 5 and origin.plans is None and origin.configuration is None
