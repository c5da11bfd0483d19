"""The error tree and the suggestions for unknown names."""

import inspect

import pytest

from spadelens import errors
from spadelens.errors import SpadeError, UnknownNameError, suggest

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, Exception)
    and not issubclass(value, Warning)
    and value.__module__ == errors.__name__
    and value is not SpadeError
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_ours_and_builtin(error: type[Exception]) -> None:
    assert issubclass(error, SpadeError)
    builtin = ValueError, ArithmeticError, RuntimeError, OSError
    assert issubclass(error, builtin), error
    assert error.__name__ in errors.__doc__
    assert f"{error.__name__} (" in errors.__doc__ or issubclass(error, errors.InputError)
    assert error.__doc__


def test_unknown_names_suggest_the_nearest() -> None:
    error = UnknownNameError("solver", "sparsgpt", ["magnitude", "sparsegpt"])
    assert str(error) == "Unknown solver 'sparsgpt'. Did you mean 'sparsegpt'?"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("OBC", ["obc", "wanda"], " Did you mean 'obc'?"),
        ("obc", ["OBC"], " Did you mean 'OBC'?"),
        ("zzz", ["b", "a", "b"], " Known: a, b."),
        ("zzz", [], ""),
        ("zzz", [str(i) for i in range(10, 30)], " Known: 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, ...."),
        ("layer1.0", ["layer1.1", "layer2.0"], " Did you mean 'layer1.1' or 'layer2.0'?"),
    ],
)
def test_suggestions(name: str, known: list[str], expected: str) -> None:
    assert sorted(suggest(name, known)) == sorted(expected)
    assert suggest(name, known).startswith(expected[:10])
