"""The terms of an objective, laid down once in the order in which every step uses them.

Shapes: ``M`` modalities, ``S`` encoded subsets of them, ``T`` terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

from scvenn.data import Keys
from scvenn.objective import Objective, Term

Subset = tuple[str, ...]


class Decoding(NamedTuple):
    """Which terms decode a modality, in each of them from what, and how that is recorded."""

    terms: list[int]  # positions among all terms
    subsets: list[int]  # positions of the encoded subsets
    detached: list[bool]  # whether the shared sample is
    cross_view: list[bool]
    names: list[str]  # columns of the history

    @classmethod
    def of(cls, modality: str, terms: Sequence[Term], subsets: Sequence[Subset]) -> Decoding:
        """Select the terms that decode a modality."""
        decoding = [t for t, term in enumerate(terms) if modality in term.decode]
        chosen = [terms[t] for t in decoding]
        return cls(
            terms=decoding,
            subsets=[subsets.index(term.encode) for term in chosen],
            detached=[modality in term.detach_shared for term in chosen],
            cross_view=[term.is_cross_view(modality) for term in chosen],
            names=[Keys.log_likelihood(term.encode, modality) for term in chosen],
        )


@dataclass(frozen=True)
class Plan:
    """What is encoded, and what is decoded for the loss and for the history alone."""

    subsets: list[Subset]  # those of the terms come first
    n_encoded: int  # how many those are
    subset_of_term: list[int]  # (T,)
    members: list[list[bool]]  # which modalities are in a subset, (S, M)
    pays_private: list[list[bool]]  # for which private latents a term pays KL, (T, M)
    trained: dict[str, Decoding]  # by modality
    watched: dict[str, Decoding]  # the cross-view pairs that the objective leaves out
    kl_names: dict[str, str]  # columns of the history, by modality

    @classmethod
    def of(cls, objective: Objective, modalities: Sequence[str]) -> Plan:
        """Plan the terms of an objective."""
        terms = objective.terms
        trained = {(term.encode, m) for term in terms for m in term.decode}
        watched = [
            Term((a,), (b,)) for a, b in permutations(modalities, 2) if ((a,), b) not in trained
        ]
        subsets = list(dict.fromkeys(term.encode for term in (*terms, *watched)))
        return cls(
            subsets=subsets,
            n_encoded=len(objective.encode_sets),
            subset_of_term=[subsets.index(term.encode) for term in terms],
            members=[[m in subset for m in modalities] for subset in subsets],
            pays_private=[[m in t.encode and m in t.decode for m in modalities] for t in terms],
            trained={m: Decoding.of(m, terms, subsets) for m in modalities},
            watched={m: Decoding.of(m, watched, subsets) for m in modalities},
            kl_names={m: Keys.kl_private(m) for m in modalities},
        )
