from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.synthesis.synthesis_settings import SynthesisSettings
from bdfm_nnunet.synthesis.tissue_tables import HEAD


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"lesions": 1.5, "tissues": HEAD}, "lesions is 1.5, expected a number from 0 to 1"),
        ({"spacing": float("nan")}, "spacing is nan"),
        ({"spacing": 0.01}, "spacing is 0.01 mm, expected at least 0.2"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"channels": ()}, "channels are none"),
        ({"channels": ("T1", "t1")}, "each once"),
        ({"contrasts": "named"}, "'mri' is not known"),
        ({"contrasts": "named", "channels": ("t1",)}, "need a table of tissues"),
        ({"contrasts": "other"}, "expected named or free"),
        ({"skull_strip": True}, "skull stripping needs to know"),
        ({"cavities": 0.5, "tissues": {7: "skin"}}, "cavities need to know"),
        ({"label_lesions": True}, "none are drawn"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        SynthesisSettings(**settings)


def test_classes_are_numbered_as_named_and_lesions_come_last() -> None:
    classes = {3: "grey", 2: "white", 42: "grey"}
    settings = SynthesisSettings(classes=classes, tissues=HEAD, lesions=0.5, label_lesions=True)
    assert settings.class_values == {"grey": 1, "white": 2, "necrosis": 3, "oedema": 4, "enhancing": 5}
    with_cavities = SynthesisSettings(tissues=HEAD, cavities=0.5, label_lesions=True)
    assert with_cavities.class_values["cavity"] == 4
    assert SynthesisSettings(tissues=HEAD, lesions=1.0).class_values == {}
