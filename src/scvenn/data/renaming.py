"""Names of features that new data spells otherwise, and how to rename them."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from scvenn.data.checks import quoted

# What may be done to names: how a user writes it, "{}" standing for the names, and as a function.
_Step = tuple[str, Callable[[pd.Index], pd.Index]]
_AS_IT_IS: _Step = ("{}", lambda x: x)
_STRIP: _Step = ("{}.str.strip()", lambda x: x.str.strip())
_WITHOUT_VERSION: _Step = (
    r"{}.str.replace(r'\.\d+$', '', regex=True)",
    lambda x: x.str.replace(r"\.\d+$", "", regex=True),
)
_CASES: list[_Step] = [
    _AS_IT_IS,
    ("{}.str.upper()", lambda x: x.str.upper()),
    ("{}.str.lower()", lambda x: x.str.lower()),
    ("{}.str.capitalize()", lambda x: x.str.capitalize()),
]


def remedy_for_names(modality: str, names: np.ndarray, missing: np.ndarray, found: pd.Index) -> str:
    """What to do about features that are missing; they may be there under similar names."""
    if not len(found):
        return "This data has no features."
    here = f"This data has {quoted(found, 3)}. "
    owner = f"mdata[{modality!r}].var_names"
    if renaming := _renaming(owner, names, missing, found):
        return here + f"Rename them: {owner} = {renaming}."
    spellings: dict[str, Callable[[str], str]] = {
        "in upper and lower case or blanks": lambda name: name.strip().casefold(),
        "by what stands behind the last dot": lambda name: name.rpartition(".")[0] or name,
    }
    for difference, spelling in spellings.items():
        present = {spelling(name): name for name in found}
        spelled = {spelling(name) for name in missing}
        if len(spelled) == len(missing) and spelled <= present.keys():
            return (
                f"This data has them under names that differ {difference}, such as "
                f"{quoted([present[spelling(missing[0])]])} for {quoted(missing[:1])}. Rename the "
                "features."
            )
    if len(missing) == len(names):  # zeros for all would be data of nothing
        return here + "Give the features the names that they had in training."
    return here + (
        "Use the same names. If these features were not measured, map the cells with "
        "map_query(mdata), for which they need not be there; if they were but no cell had a count, "
        "add them with zeros."
    )


def similar_names(missing: np.ndarray, found: pd.Index) -> dict[str, str]:
    """Features that are missing, and what the data has instead of each under a similar name.

    Names are similar if they differ in upper and lower case, in blanks, or in the version of an
    Ensembl identifier. Elsewhere a number behind a dot may tell two genes apart: AC004.1 and .2.
    """

    def spelling(name: str) -> str:
        return re.sub(r"^(ENS\w+)\.\d+$", r"\1", name.strip()).casefold()

    present = {spelling(name): name for name in found}
    return {name: present[spelling(name)] for name in missing if spelling(name) in present}


def _renaming(owner: str, names: np.ndarray, missing: np.ndarray, found: pd.Index) -> str | None:
    """The expression that makes the model's names of those that were found; None if none does."""
    stripped = found.str.strip()
    first = _AS_IT_IS if stripped.equals(found) else _STRIP
    ways = [[_AS_IT_IS, _AS_IT_IS], [_WITHOUT_VERSION, _AS_IT_IS]]
    for way in [*ways, *_affixes(max(missing, key=len), stripped)]:
        for case in _CASES:
            written, renamed = owner, found
            for template, change in (first, way[0], case, way[1]):
                written, renamed = template.replace("{}", written), change(renamed)
            if renamed.is_unique and (renamed.get_indexer(names) >= 0).all():
                return written
    return None


def _affixes(name: str, found: pd.Index) -> list[list[_Step]]:
    """What to remove before, and add after a change of case, for a name to be among those found."""
    ways: dict[tuple[str, str], list[_Step]] = {}
    for other in found:
        longer, shorter = (other, name) if len(other) > len(name) else (name, other)
        before, inner, after = longer.lower().partition(shorter.lower() or longer.lower())
        if not inner or not before + after:
            continue
        affix = longer[: len(before)], longer[len(longer) - len(after) :]
        remove = [_remove(*affix), _AS_IT_IS]
        ways[affix] = remove if longer is other else [_AS_IT_IS, _add(*affix)]
    return [ways[affix] for affix in sorted(ways, key=lambda affix: len("".join(affix)))[:5]]


def _remove(prefix: str, suffix: str) -> _Step:
    """The step that takes a beginning and an end off."""
    written = "{}"
    if prefix:
        written += f".str.removeprefix({prefix!r})"
    if suffix:
        written += f".str.removesuffix({suffix!r})"
    return written, lambda x: x.str.removeprefix(prefix).str.removesuffix(suffix)


def _add(prefix: str, suffix: str) -> _Step:
    """The step that puts a beginning and an end to it."""
    written = f"{prefix!r} + {{}}" if prefix else "{}"
    if suffix:
        written += f" + {suffix!r}"
    return written, lambda x: prefix + x + suffix
