"""How multimodal VAEs with shared and private latents differ, as data: a list of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from numbers import Real
from typing import Any, Literal

__all__ = ["Latents", "Objective", "Penalty", "Term", "mmvae", "mmvaepp", "mopoe", "mvae"]

# How the names of the history's own columns start.
_OF_HISTORY = (
    "accuracy_",
    "elbo",
    "epoch",
    "kl_",
    "log_likelihood_",
    "loss",
    "reconstruction_loss",
    "train_",
    "validation_",
)
# The terms of MoPoE-VAE double with each modality.
_MOST_OF_MOPOE = 10


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
        private latent is absent and adds no KL.
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
            if isinstance(value, set | frozenset):
                raise ValueError(
                    f"Term({name}={value!r}): expected a tuple of modalities, found a set, which "
                    "has no order."
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
class Latents:
    """What the value of a :class:`Penalty` is computed from: the latents of B cells.

    A latent of which nothing was observed is 0, and has no gradient.

    Parameters
    ----------
    shared, shared_mean
        Samples and means of the posteriors of the shared latent, tensors (B, K) by the encoded
        modalities: ``shared["rna",]`` given the RNA alone, in the terms that encode it alone.
    private, private_mean
        Samples and means of the posteriors of the private latents, (B, K) by modality.
    observed
        Where each modality was observed, boolean tensors (B,) by modality.
    covariates
        What decoders see besides, (B, V): a column for each category of a covariate that has two or
        more, and for each number.
    batch
        Number of each cell's batch, (B,).
    """

    shared: Mapping[tuple[str, ...], Any]
    shared_mean: Mapping[tuple[str, ...], Any]
    private: Mapping[str, Any]
    private_mean: Mapping[str, Any]
    observed: Mapping[str, Any]
    covariates: Any
    batch: Any


@dataclass(frozen=True)
class Penalty:
    """A part of the loss besides the terms: ``weight`` times a value of each cell.

    The values are recorded in the history under the name, as ``name_train`` and
    ``name_validation``.

    Parameters
    ----------
    name
        Name of the columns of the history.
    weight
        What a value of 1 adds to the loss of a cell.
    value
        A function from :class:`~scvenn.objective.Latents` to a tensor with a value for each cell,
        (B,). NaN, set with ``torch.where``, is for cells that the penalty does not concern: they
        leave the loss and the record. It is code and not saved with a model: pass it to ``load``
        to train a loaded model further.

    Raises
    ------
    ValueError
        If the name is empty or starts like those of the history's own columns, the weight is not a
        finite number, or the value is no function.

    Examples
    --------
    >>> def size_of_shared(latents):
    ...     return latents.shared_mean["rna",].square().sum(1)
    >>> penalty = Penalty("size_of_shared", weight=0.1, value=size_of_shared)
    >>> Objective((Term(("rna",), ("rna", "atac")),), penalties=(penalty,)).penalties[0].name
    'size_of_shared'
    """

    name: str
    weight: float
    value: Callable[[Latents], Any]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name.startswith(_OF_HISTORY):
            raise ValueError(
                f"Penalty(name={self.name!r}): expected a text that does not start like the "
                f"history's own columns: {', '.join(_OF_HISTORY)}."
            )
        if not isinstance(self.weight, Real) or not isfinite(self.weight):
            raise ValueError(f"Penalty(weight={self.weight!r}): expected a finite number.")
        if not isinstance(self.weight, int | float):  # numpy's numbers are no data for a file
            object.__setattr__(self, "weight", float(self.weight))
        if not callable(self.value):
            raise ValueError(f"Penalty(value={self.value!r}): expected a function of the latents.")


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
    penalties
        What is added to the loss besides the terms; see :class:`Penalty`.

    Raises
    ------
    ValueError
        If there is no term, ``reduction`` is neither ``"sum"`` nor ``"mean"``, or two penalties
        have the same name.

    Examples
    --------
    An objective of one's own: only RNA informs the shared latent.

    >>> Objective(terms=(Term(("rna",), ("rna", "atac")),), prior_expert=False, reduction="mean")
    ... # doctest: +ELLIPSIS
    Objective(terms=(Term(...),), prior_expert=False, reduction='mean', penalties=())
    """

    terms: tuple[Term, ...]
    prior_expert: bool = False
    reduction: Literal["sum", "mean"] = "mean"
    penalties: tuple[Penalty, ...] = ()

    def __post_init__(self) -> None:
        for name in ("terms", "penalties"):
            value = getattr(self, name)
            if isinstance(value, Term | Penalty):
                raise ValueError(
                    f"Objective({name}=...): expected a tuple, found a {type(value).__name__}. "
                    f"Pass {name}=(..., ), with a comma."
                )
            object.__setattr__(self, name, tuple(value))
        if not isinstance(self.prior_expert, bool):
            raise ValueError(
                f"Objective(prior_expert={self.prior_expert!r}): expected True or False."
            )
        if not self.terms or not all(isinstance(term, Term) for term in self.terms):
            raise ValueError(
                f"Objective(terms={self.terms!r}): expected one or more scvenn.Term objects."
            )
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"Objective(reduction={self.reduction!r}): expected 'sum' or 'mean'.")
        if not all(isinstance(penalty, Penalty) for penalty in self.penalties):
            raise ValueError(
                f"Objective(penalties={self.penalties!r}): expected scvenn.Penalty objects."
            )
        names = [penalty.name for penalty in self.penalties]
        if len(set(names)) < len(names):
            raise ValueError(
                f"Objective(penalties=...): found the names {names}; each must differ."
            )

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
    if len(every) > _MOST_OF_MOPOE:
        raise ValueError(
            f"MoPoE-VAE: found {len(every)} modalities, expected at most {_MOST_OF_MOPOE}: with "
            f"terms for every subset, its objective would have {2 ** (len(every) + 1) - 3:,}. "
            "Choose fewer with setup_mudata(modalities=[...]), or train MMVAEpp, which has one "
            "term for each modality."
        )
    terms = []
    for size in range(1, len(every) + 1):
        for subset in combinations(every, size):
            terms.append(Term(subset, subset))
            if rest := tuple(m for m in every if m not in subset):
                terms.append(Term(subset, rest))
    return Objective(tuple(terms), prior_expert=True, reduction="sum")
