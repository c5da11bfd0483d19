"""The sentences that say what a prediction rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spadelens.finding.coverings import WORDS
from spadelens.finding.finding import Effect, Finding
from spadelens.snippets import shortened

_MOST_NAMED, _LONGEST_NAME = 6, 60
_LEAST_SHOWN = 1e-5

ClassName = Callable[[int], str]


def claim(finding: Finding, class_name: ClassName) -> str:
    """Return what the model says, such as 'king penguin 41%, rather than toucan 31%'."""
    said, probability = class_name(finding.target), _percent_of_target(finding, finding.probability)
    if finding.prediction.outputs == "labels" and finding.versus is None:
        return f"{said} {probability}"
    other = f"{class_name(finding.other)} {percent(finding.prediction.probabilities[finding.other])}"
    if finding.is_answer or finding.versus is not None:
        return f"{said} {probability}, rather than {other}"
    return f"{said} {probability}, where the model says {other}"


def grounds(finding: Finding, class_name: ClassName, units: Sequence[str] = (), noun: str = "photo") -> str:
    """Return what the claim rests on, in one to four sentences.

    Args:
        finding: The finding.
        class_name: The name of a class, given its index.
        units: For a text the words of the region, for a row its columns; empty for a photo.
        noun: What the sample is: 'photo', 'text' or 'row'.
    """
    size = f"{percent(finding.area)} of the photo" if noun == "photo" else _listed(units, noun)
    first, *others = finding.without
    it = "them" if len(units) > 1 else "it"
    if finding.is_carried:
        place = f"the outlined {size}" if noun == "photo" else size
        found = (
            f"It rests on {place}: without {it}, {_says(finding, first, class_name)}; "
            f"with nothing else, {_says(finding, finding.alone[0], class_name)}."
        )
    else:
        covered = f"the strongest {size}" if noun == "photo" else size
        found = (
            f"No small {REGION_NOUNS[noun]} carries this prediction: with {covered} {WORDS[first.covering]}, "
            f"{_changes(finding, first, class_name)}."
        )
    differing = [effect for effect in others if effect.is_changed != first.is_changed]
    disagreement = f"The ways to cover {it} disagree: {_disagreement(finding, differing, class_name)}."
    control = _control(finding, noun)
    return " ".join([found, *([disagreement] if differing else []), *([control] if finding.is_carried else [])])


def percent(fraction: float) -> str:
    """Return a fraction as whole percent, which never rounds to all or nothing what is neither."""
    if 0 < fraction < 0.01:
        return "<1%"
    return ">99%" if 0.99 < fraction < 1 else f"{fraction:.0%}"


def _percent_of_target(finding: Finding, fraction: float) -> str:
    """Return a probability of the explained class, with more digits where it is below 1% to begin with."""
    if finding.probability >= 0.01 or fraction >= 0.01 or fraction == 0:
        return percent(fraction)
    return f"{100 * fraction:.2g}%" if fraction >= _LEAST_SHOWN else f"<{_LEAST_SHOWN:.3%}"


REGION_NOUNS = {"photo": "region", "text": "set of words", "row": "set of columns"}
_PLACES = {
    "photo": "areas of the same size and shape",
    "text": "sets of as many words",
    "row": "sets of as many columns",
}


def _says(finding: Finding, effect: Effect, class_name: ClassName) -> str:
    """Return what the model says after an intervention."""
    explained = f"{class_name(finding.target)} {_percent_of_target(finding, effect.probability)}"
    if not finding.is_answer or finding.prediction.outputs == "labels":
        return explained
    if effect.answer == finding.target:
        return f"the model says {class_name(effect.answer)} ({percent(effect.answer_probability)})"
    return f"the model says {class_name(effect.answer)} ({percent(effect.answer_probability)}; {explained})"


def _changes(finding: Finding, effect: Effect, class_name: ClassName) -> str:
    before, after = (_percent_of_target(finding, one) for one in (finding.probability, effect.probability))
    return f"{class_name(finding.target)} goes from {before} to {after}"


def _disagreement(finding: Finding, effects: Sequence[Effect], class_name: ClassName) -> str:
    return ", and ".join(f"{WORDS[one.covering]}, {_says(finding, one, class_name)}" for one in effects)


def _control(finding: Finding, noun: str) -> str:
    random = finding.random
    places = _PLACES[noun]
    before, after = (_percent_of_target(finding, one) for one in (finding.probability, random.probability))
    lost = f"and loses the prediction in {random.num_changed} of {random.count} draws"
    draws = lost if 2 * random.num_changed >= random.count else f"({random.count} draws)"
    change = f"random {places} changes {before} to {after} on average {draws}."
    return f"Covering {change}" if finding.is_specific else f"But the place says little: covering {change}"


def _listed(units: Sequence[str], noun: str) -> str:
    """Return names of words or columns as one phrase."""
    kind = "word" if noun == "text" else "column"
    named = [f"“{shortened(unit, _LONGEST_NAME)}”" for unit in units]
    if len(named) > _MOST_NAMED:
        return f"{len(named)} {kind}s ({', '.join(named[:_MOST_NAMED])} and others)"
    listed = " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
    return f"the {kind}{'s' if len(named) > 1 else ''} {listed}"
