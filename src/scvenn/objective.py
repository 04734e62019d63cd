"""What tells multimodal VAEs with shared and private latents apart, as data: a list of terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

__all__ = ["Objective", "Term", "mmvae", "mmvaepp", "mopoe", "mvae"]


@dataclass(frozen=True)
class Term:
    r"""One evidence lower bound (ELBO).

    .. math::

        -\sum_{m \in D} \log p(x_m \mid s, p_m)
        + \beta \Big( \mathrm{KL}[q(s \mid x_E) \,\|\, N(0, I)]
        + \sum_{m \in E \cap D} \mathrm{KL}[q(p_m \mid x_m) \,\|\, N(0, I)] \Big)

    with :math:`s` the shared latent, :math:`p_m` the private latent of modality :math:`m`, and
    :math:`E`, :math:`D` the encoded and decoded modalities.

    Parameters
    ----------
    encode
        Modalities whose posteriors of the shared latent are multiplied (product of experts).
    decode
        Modalities whose likelihood is scored. One that is not in ``encode`` is *cross-view*: its
        private latent is absent and pays no KL.
    detach_shared
        Modalities of ``decode`` that are decoded without gradient through the shared sample
        (``sg[.]`` in the paper); their decoder still learns.

    Raises
    ------
    ValueError
        If ``encode`` or ``decode`` is empty or repeats a modality, or if ``detach_shared`` names
        a modality that is not decoded.

    Examples
    --------
    >>> Term(encode=("rna",), decode=("rna", "atac"), detach_shared=("rna",))
    Term(encode=('rna',), decode=('rna', 'atac'), detach_shared=('rna',))
    """

    encode: tuple[str, ...]
    decode: tuple[str, ...]
    detach_shared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("encode", "decode", "detach_shared"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(
                    f"Term({name}={value!r}): expected a tuple of modalities, found a string. "
                    f"Pass {name}=({value!r},)."
                )
            object.__setattr__(self, name, tuple(value))
            if len(set(value)) != len(value):
                raise ValueError(f"Term({name}={value!r}) names a modality more than once.")
        if not self.encode or not self.decode:
            raise ValueError(
                f"Term(encode={self.encode}, decode={self.decode}): both need at least one "
                "modality."
            )
        if not set(self.detach_shared) <= set(self.decode):
            raise ValueError(
                f"Term(decode={self.decode}, detach_shared={self.detach_shared}): only modalities "
                "that are decoded can be detached."
            )

    def is_cross_view(self, modality: str) -> bool:
        """Whether ``modality`` is decoded here without having been encoded."""
        return modality not in self.encode


@dataclass(frozen=True)
class Objective:
    """The terms of a loss and how they are put together.

    Parameters
    ----------
    terms
        The ELBOs.
    prior_expert
        Whether N(0, I) is one expert of every posterior, of the shared latent and of the private
        ones.
    reduction
        ``"sum"`` or ``"mean"`` over the terms. A term none of whose encoded modalities is observed
        in a cell is skipped for that cell; ``"mean"`` then averages over the terms that are left.

    Raises
    ------
    ValueError
        If there is no term, or ``reduction`` is neither ``"sum"`` nor ``"mean"``.

    Examples
    --------
    An objective of one's own: only RNA informs the shared latent.

    >>> Objective(terms=(Term(("rna",), ("rna", "atac")),), prior_expert=False, reduction="mean")
    ... # doctest: +ELLIPSIS
    Objective(terms=(Term(...),), prior_expert=False, reduction='mean')
    """

    terms: tuple[Term, ...]
    prior_expert: bool = False
    reduction: Literal["sum", "mean"] = "mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(self.terms))
        if not self.terms or not all(isinstance(term, Term) for term in self.terms):
            raise ValueError(
                f"Objective(terms={self.terms!r}): expected one or more scvenn.Term objects."
            )
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"Objective(reduction={self.reduction!r}): expected 'sum' or 'mean'.")

    @property
    def encode_sets(self) -> tuple[tuple[str, ...], ...]:
        """The distinct sets of modalities that are encoded together, in order of appearance."""
        return tuple(dict.fromkeys(term.encode for term in self.terms))

    @property
    def pools_experts(self) -> bool:
        """Whether posteriors are multiplied in training, so that embeddings multiply them too."""
        return any(len(encode) > 1 for encode in self.encode_sets)

    def validate(self, modalities: Sequence[str]) -> None:
        """Raise a ``ValueError`` unless the terms name and decode exactly these modalities."""
        decoded = {m for term in self.terms for m in term.decode}
        encoded = {m for term in self.terms for m in term.encode}
        if unknown := sorted((decoded | encoded) - set(modalities)):
            raise ValueError(
                f"The objective names {unknown}, but the modalities set up are "
                f"{list(modalities)}. Change the terms or setup_mudata(modalities=...)."
            )
        for what, found in (("encoded", encoded), ("decoded", decoded)):
            if missing := [m for m in modalities if m not in found]:
                raise ValueError(
                    f"No term of the objective has {missing} {what}: these networks would never "
                    "be trained. Add a term or leave them out with setup_mudata(modalities=...)."
                )


def mvae(modalities: Sequence[str]) -> Objective:
    """MVAE: the joint ELBO and one ELBO for each modality (paper, eq. 1; Wu & Goodman 2018)."""
    every = tuple(modalities)
    terms = (Term(every, every), *(Term((m,), (m,)) for m in every))
    return Objective(terms, prior_expert=True, reduction="sum")


def mmvae(modalities: Sequence[str]) -> Objective:
    """MMVAE: each modality alone explains all (paper, eq. 3; Shi et al. 2019)."""
    every = tuple(modalities)
    return Objective(tuple(Term((m,), every) for m in every), reduction="mean")


def mmvaepp(modalities: Sequence[str]) -> Objective:
    """MMVAE++: as MMVAE, but only cross-view likelihoods move `shared` (paper, section 3.2)."""
    every = tuple(modalities)
    return Objective(tuple(Term((m,), every, detach_shared=(m,)) for m in every), reduction="mean")


def mopoe(modalities: Sequence[str]) -> Objective:
    """MoPoE-VAE: every subset explains itself and the rest (paper, eq. 4; Sutter et al. 2021)."""
    every = tuple(modalities)
    terms = []
    for size in range(1, len(every) + 1):
        for subset in combinations(every, size):
            terms.append(Term(subset, subset))
            if rest := tuple(m for m in every if m not in subset):
                terms.append(Term(subset, rest))
    return Objective(tuple(terms), prior_expert=True, reduction="sum")
