"""`TraceOptions`: everything that can be said about how traces are made.

This is the one list of these options. The keyword arguments of `extract_trace` and its relatives, the options of the
command line and their help, the settings in reports and the command that reproduces a run all follow from the fields
below: to add an option, add a field, and use `request.options.NAME` where it matters. Only what a command line needs is
imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from spadelens import defaults
from spadelens.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from spadelens.extraction.presets import Preset
    from spadelens.prediction import Outputs
    from spadelens.schedules.schedule_text import ScheduleLike
    from spadelens.solvers import Solver
    from spadelens.views.photo_views import AugmentationLike

MOST_VIEWS = 1_000_000
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _shown(text: str, **metadata: Any) -> dict[str, Any]:
    """Return the metadata of a field; see `OptionField`."""
    return {"text": text, **metadata}


@dataclass(frozen=True)
class OptionField:
    """One option, as the command line and the documentation show it.

    Attributes:
        name: The keyword in Python.
        default: Its default; None where the preset or the sample decides.
        text: What it is, in a sentence.
        flag: The option on the command line.
        metavar: What its value is called there; None for a number.
        least: The least number allowed; None for text.
        most: The largest number allowed; None for any.
        is_repeated: Whether the option can be given several times.
    """

    name: str
    default: Any
    text: str
    flag: str
    metavar: str | None = None
    least: int | None = None
    most: int | None = None
    is_repeated: bool = False


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """How traces are made. What is None is up to the preset.

    `TraceOptions(preset="fast", seed=1)` can be passed as `options=` to `extract_trace` and its relatives, which also
    take every field as a keyword argument.
    """

    preset: str | None = field(
        default=None,
        metadata=_shown(
            "Defaults for the options below: instant, fast, balanced, ensemble, paper or paper-fast.", metavar="NAME"
        ),
    )
    solver: str | Solver | None = field(
        default=None,
        metadata=_shown(
            "Solver that prunes a layer: auto, admm, ols, obc, sparsegpt, wanda or magnitude; with settings, for "
            "example sparsegpt:unit=kernel,damping=0.1.",
            metavar="NAME",
        ),
    )
    schedule: ScheduleLike | None = field(
        default=None,
        metadata=_shown(
            "Sparsity of each layer: auto, which searches for the sparsest trace that keeps the answer for each "
            "sample; auto:threshold=0.8; 0.9 for all layers; late:0.8; 'layer4.*=0.95,fc=0.9'; or a .json table.",
            metavar="SPEC",
        ),
    )
    layers: Sequence[str] | None = field(
        default=None,
        metadata=_shown(
            "Pattern of the layers that may be pruned. By default all linear layers, and all convolutions but the "
            "first.",
            metavar="PATTERN",
            is_repeated=True,
        ),
    )
    augmentation: AugmentationLike | None = field(
        default=None,
        metadata=_shown(
            "How views (augmented versions of the sample) are made: noise, paper, tokens (for texts), bootstrap (for "
            "rows) or none; with settings, for example noise:std=0.1.",
            metavar="NAME",
        ),
    )
    num_views: int | None = field(
        default=None,
        metadata=_shown("Number of views, the sample included.", flag="--views", least=1, most=MOST_VIEWS),
    )
    positions_per_column: int | None = field(
        default=None,
        metadata=_shown(
            f"Maximum input positions per weight column, over all views; 0 for all of them. No layer gets fewer than "
            f"{defaults.LEAST_POSITIONS} in all.",
            least=0,
        ),
    )
    seed: int = field(default=0, metadata=_shown("Seed for everything that is drawn at random.", least=0))
    memory_budget_mib: int | None = field(
        default=None,
        metadata=_shown(
            "Memory for captured layer inputs, in MiB. By default 1024, or a quarter of the free GPU memory.",
            flag="--memory-budget",
            metavar="MIB",
            least=1,
        ),
    )
    precision: str = field(
        default="float32",
        metadata=_shown(
            "float32, or bfloat16, which rounds captured layer inputs and is faster on some devices.", metavar="NAME"
        ),
    )
    batch_size: int | None = field(
        default=None,
        metadata=_shown("Views per forward pass. By default as many as the layers' sizes allow.", least=1),
    )

    outputs: Outputs | None = field(
        default=None,
        metadata=_shown(
            "What the model's scores are for: classes, or labels, of which any number may apply. By default labels if "
            "the model ends in a sigmoid, else classes.",
            metavar="NAME",
        ),
    )

    def __post_init__(self) -> None:
        """Reject numbers out of range, before anything is computed."""
        for each in option_fields():
            value = getattr(self, each.name)
            if each.least is None or value is None:
                continue
            is_number = isinstance(value, int) and not isinstance(value, bool)
            if not is_number or value < each.least or (each.most is not None and value > each.most):
                upper = "" if each.most is None else f", at most {each.most:,}"
                raise InputError(
                    f"Cannot use {each.name}={value!r}: expected an integer of at least {each.least}{upper}."
                )

    @classmethod
    def of(cls, options: TraceOptions | None = None, **changes: Any) -> TraceOptions:
        """Return `options`, or the defaults, with some fields changed.

        Raises:
            UnknownNameError: There is no such option.
            InputError: A number is out of range.
        """
        names = [each.name for each in option_fields()]
        for name in changes:
            if name not in names:
                raise UnknownNameError("option", name, names)
        if options is not None and not isinstance(options, TraceOptions):
            raise InputError(f"Cannot use {options!r} as options: expected TraceOptions.")
        return replace(options or cls(), **changes)

    def filled(self, preset: Preset, name: str) -> TraceOptions:
        """Return the options with what is None taken from `preset`, whose name is `name`."""
        taken = {
            each.name: getattr(preset, each.name)
            for each in option_fields()
            if getattr(self, each.name) is None and hasattr(preset, each.name)
        }
        return replace(self, preset=name, **taken)

    def described(self) -> dict[str, Any]:
        """Return every option as JSON can hold it, with the settings of the solver as well."""
        from spadelens.settings import settings_of
        from spadelens.solvers import Solver

        listing = {each.name: _text(each.name, getattr(self, each.name)) for each in option_fields()}
        if isinstance(self.solver, Solver):
            listing["solver_settings"] = settings_of(self.solver)
        return listing

    def words(self) -> list[str]:
        """Return the words of the command line that stand for the options."""
        words = []
        for each in option_fields():
            value = _text(each.name, getattr(self, each.name))
            for one in (value or ()) if each.is_repeated else () if value is None else (value,):
                words += [each.flag, str(one)]
        return words


def option_fields() -> list[OptionField]:
    """Return all options, in the order in which help and reports list them."""
    found = []
    for each in dataclasses.fields(TraceOptions):
        metadata = {"flag": "--" + each.name.replace("_", "-"), **each.metadata}
        found.append(OptionField(name=each.name, default=each.default, **metadata))
    return found


def takes_trace_options(function: _Function) -> _Function:
    """Show the options in the signature of a function that takes `**changes`, and in its docstring at `{options}`."""
    signature = inspect.signature(function)
    keywords = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default)
        for each in option_fields()
        if each.name not in signature.parameters
    ]
    parameters = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=[*parameters, *keywords])  # type: ignore[attr-defined]
    texts = [
        textwrap.fill(f"{each.name}: {each.text}", 116, initial_indent=" " * 8, subsequent_indent=" " * 12)
        for each in option_fields()
        if each.name not in signature.parameters
    ]
    function.__doc__ = (function.__doc__ or "").replace("        {options}", "\n".join(texts))
    return function


def _text(name: str, value: Any) -> Any:
    """Return the value of an option as text that it can be read from, a number, a list of texts, or None."""
    if name == "solver" and value is not None and not isinstance(value, str):
        from spadelens.solvers import solver_name

        return solver_name(value)
    if name in ("schedule", "augmentation") and hasattr(value, "spec"):
        return value.spec()
    if name == "layers":
        return list(value) if value else None
    return value if value is None or isinstance(value, int) else str(value)
