"""Names that parameters had in files of earlier releases, in the one place that remembers them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Until 0.1, the networks of one kind stood in a list with one for each modality. The first pattern
# that fits counts.
_NAMES_UNTIL_0_1 = {
    r"encoders\.(\d+)\.hidden_shared\.": r"branches.\1.shared_hidden.",
    r"encoders\.(\d+)\.hidden_private\.": r"branches.\1.hidden.",
    r"encoders\.(\d+)\.(shared|private)\.": r"branches.\1.\2_head.",
    r"encoders\.(\d+)\.": r"branches.\1.",
    r"decoders\.(\d+)\.": r"branches.\1.decoder.",
    r"cross_decoders\.(\d+)\.": r"branches.\1.cross_decoder.",
    r"likelihoods\.(\d+)\.": r"branches.\1.likelihood.",
    r"absent\.(\d+)\.": r"branches.\1.absent.",
}


def with_todays_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a file of any release by the names that they have today."""
    return {_todays_name(name): value for name, value in state.items()}


def _todays_name(name: str) -> str:
    for pattern, replacement in _NAMES_UNTIL_0_1.items():
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name
