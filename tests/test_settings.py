"""`NAME:setting=value,...` and back."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings, strategies as st

from spadelens.errors import InputError, UnknownNameError
from spadelens.methods.registry import METHODS
from spadelens.settings import configured_name, default_settings, parse_configured, settings_of
from spadelens.solvers import SOLVERS


@dataclass(frozen=True)
class Brush:
    width: int = 3
    opacity: float = 0.5
    shape: str = "round"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError("too thin")


@dataclass(frozen=True)
class Eraser:
    pass


KNOWN: Mapping[str, type] = {"brush": Brush, "eraser": Eraser}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("brush", Brush()),
        ("brush:", Brush()),
        ("eraser", Eraser()),
        ("brush:width=7", Brush(width=7)),
        ("brush:opacity=1,shape=flat", Brush(opacity=1.0, shape="flat")),
        ("brush:shape=a=b", Brush(shape="a=b")),
        ("brush:width=1,width=2,", Brush(width=2)),
        ("brush:opacity=1e-3", Brush(opacity=0.001)),
    ],
)
def test_parsing(text: str, expected: object) -> None:
    parsed = parse_configured("tool", text, KNOWN)
    assert parsed == expected
    assert [type(value) for value in settings_of(parsed).values()] == [type(v) for v in settings_of(expected).values()]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("brsh", UnknownNameError, r"Unknown tool 'brsh'\. Did you mean 'brush'\?"),
        ("", UnknownNameError, r"Unknown tool ''\. Known: brush, eraser\."),
        ("brush:widht=3", UnknownNameError, r"Unknown setting of tool 'brush' 'widht'\. Did you mean 'width'\?"),
        ("eraser:width=3", UnknownNameError, "Unknown setting of tool 'eraser' 'width'"),
        ("brush:width=3.5", InputError, r"Cannot use width='3\.5' for tool 'brush': expected a value of type int"),
        ("brush:width", InputError, "Cannot use width=''"),
        ("brush:opacity=much", InputError, "Cannot use opacity='much'"),
        ("brush:width=0", InputError, "too thin"),
    ],
)
def test_refusals(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_configured("tool", text, KNOWN)


@given(
    st.builds(
        Brush,
        st.integers(min_value=1),
        st.floats(allow_nan=False),
        st.text("abc =:", max_size=5).filter(lambda text: text == text.strip()),
    )
)
@settings(max_examples=60, deadline=None)
def test_names_lead_back(brush: Brush) -> None:
    assert parse_configured("tool", configured_name(brush, KNOWN), KNOWN) == brush


def test_names_leave_defaults_out() -> None:
    assert configured_name(Brush(), KNOWN) == "brush"
    assert configured_name(Brush(width=4, shape="x"), KNOWN) == "brush:width=4,shape=x"
    assert configured_name(Brush(), {"eraser": Eraser}) == "Brush"
    assert default_settings(Brush) == {"width": 3, "opacity": 0.5, "shape": "round"}
    assert settings_of(Brush(width=9)) == {"width": 9, "opacity": 0.5, "shape": "round"}


@pytest.mark.parametrize("known", [SOLVERS, METHODS])
def test_everything_that_has_a_name_has_defaults_of_types_that_text_can_give(known: Mapping[str, type]) -> None:
    for name, configurable in known.items():
        assert configured_name(parse_configured("thing", name, known), known) == name
        for key, value in default_settings(configurable).items():
            assert type(value) in (int, float, str, tuple, type(None)), (name, key)  # bool('False') would be True
