"""Model specs that are refused."""

import sys

import pytest

from spadelens.errors import InputError
from spadelens.models import load_model


def refused(spec: str, trust: bool = False) -> str:
    path = list(sys.path)
    with pytest.raises(InputError) as caught:
        load_model(spec, "cpu", trust)
    message = str(caught.value)
    assert "\n" not in message
    assert sys.path == path
    return message
