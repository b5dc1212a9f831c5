import io
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints.nnunet_loading import checkpoints_loaded, loading_as_data
from bdfm_nnunet.errors import InputError

WEIGHTS = {"encoder.a": torch.ones(2), "b": torch.zeros(3)}


def _saved(tmp_path: Path, content: object, name: str = "a.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


class _Danger:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/never"),)  # type: ignore[return-value]


def test_nnunet_loads_as_data_inside_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = _saved(tmp_path, {"network_weights": WEIGHTS, "callback": _Danger()}, "bomb.pth")
    monkeypatch.setattr(Path, "touch", lambda *_: pytest.fail("the file's code was run"))
    good = _saved(tmp_path, {"network_weights": WEIGHTS, "trainer_name": "T"})
    before, number = torch.load, len(checkpoints_loaded())
    with loading_as_data():
        assert torch.load(str(good), map_location="cuda", weights_only=False)["trainer_name"] == "T"
        for path in (bomb, _saved(tmp_path, {"network_weights": {"a": torch.tensor(float("nan"))}}, "nan.pth")):
            with pytest.raises(InputError, match=path.name):
                torch.load(path, weights_only=False)
        with pytest.raises(InputError, match="no entry network_weights"):
            torch.load(_saved(tmp_path, WEIGHTS, "bare.pth"), weights_only=False)
        assert torch.load(tmp_path / "bare.pth", weights_only=True).keys() == WEIGHTS.keys()
        stream = io.BytesIO()
        torch.save({1: 2}, stream)
        stream.seek(0)
        assert torch.load(stream, weights_only=False) == {1: 2}
    assert torch.load is before
    seen: Any = checkpoints_loaded()[number:]
    assert [(checkpoint.path.name, checkpoint.trainer, checkpoint.weights) for checkpoint in seen] == [
        ("a.pth", "T", {})
    ]
