"""What live slices that see and hear ask for; that they do is shown in end_to_end/."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.live.elastic import ElasticParent


def test_towers_that_were_not_loaded(pico_full: Path) -> None:
    with pytest.raises(InputError, match=r"were not loaded; ElasticParent.load\(..., towers=True"):
        ElasticParent.load(str(pico_full)).live_multimodal("1/2")


def test_a_text_parent_has_no_towers() -> None:
    with pytest.raises(InputError, match="tiny is a text model; pictures and sound need the full"):
        ElasticParent.load("tiny", towers=True)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is here")
def test_without_timm_the_error_says_what_to_install(pico_full: Path) -> None:
    with pytest.raises(InputError, match="pip install timm torchvision"):
        ElasticParent.load(str(pico_full), towers=True)
