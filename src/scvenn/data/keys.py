"""Every name scvenn writes to or reads from a MuData or a registry."""

from __future__ import annotations

from urllib.parse import unquote


class Keys:
    """Names of slots. Besides these, figures keep palettes in ``uns``, as scanpy does."""

    # tensors of a minibatch
    OBSERVED = "observed"
    BATCH = "batch"
    LABELS = "labels"

    # entries of a field's state registry
    COLUMN_NAMES = "column_names"
    MAY_LACK = "may_lack"
    CATEGORIES = "categories"
    SOURCE = "source"
    LIKELIHOOD = "likelihood"
    OF_COUNTS = "of_counts"
    DENSITY = "density"
    CONSTANT = "constant"
    MEAN = "mean"
    SCALE = "scale"
    LIBRARY = "library"

    # mdata.uns: the mark of a MuData that was set up, under scvi-tools' name for it
    SCVI_UUID = "_scvi_uuid"

    # mdata.uns: which model wrote the embeddings, with which versions
    UNS = "scvenn"

    # obsm and uns of each modality of minified data: what its encoder gave, and by which model
    POSTERIOR = "scvenn_posterior"
    POSTERIOR_OF = "scvenn_posterior_of"

    # var of each modality: how well the other modalities predict a feature, and whether it counts
    SHARED = "scvenn_shared"
    SHARED_SCORE = "scvenn_shared_score"

    @staticmethod
    def contribution(latent: str, modality: str) -> str:
        """``obs`` key of the part of a modality's prediction that a latent accounts for."""
        return f"scvenn_{latent}_{modality}"

    @staticmethod
    def x(modality: str) -> str:
        """Registry key of a modality's matrix.

        Prefixed so that no modality name can clash, and without the dots scvi-tools refuses.
        """
        return "X_" + _without_dots(modality)

    @staticmethod
    def posterior(modality: str) -> str:
        """Name of the tensor that minified data has in place of a modality's matrix."""
        return "posterior_" + _without_dots(modality)

    @staticmethod
    def categorical(column: str) -> str:
        """Registry key of a categorical covariate."""
        return "categorical_" + _without_dots(column)

    @staticmethod
    def continuous(column: str) -> str:
        """Registry key of a continuous covariate."""
        return "continuous_" + _without_dots(column)

    @staticmethod
    def shared(prefix: str = "X") -> str:
        """``obsm`` key of the shared embedding, in the MuData and in each modality.

        With the prefix ``"z"``, of the latent that a simulation planted.
        """
        return f"{prefix}_shared"

    @staticmethod
    def private(modality: str | None = None, prefix: str = "X") -> str:
        """``obsm`` key of a private embedding; without a modality, the key inside that modality."""
        return f"{prefix}_private" if modality is None else f"{prefix}_private_{modality}"

    @staticmethod
    def log_likelihood(encode: tuple[str, ...], decode: str) -> str:
        """Column of the history: the log-likelihood of ``decode`` given what was encoded."""
        source = "+".join(_without_separators(m) for m in encode)
        return f"log_likelihood_{source}->{_without_separators(decode)}"

    @staticmethod
    def of_log_likelihood(column: str) -> tuple[tuple[str, ...], str] | None:
        """What was encoded and decoded, by such a column; None for other columns."""
        pair = column.removeprefix("log_likelihood_")
        source, arrow, decode = pair.partition("->")
        if pair == column or not arrow:
            return None
        return tuple(map(unquote, source.split("+"))), unquote(decode)

    @staticmethod
    def kl_private(modality: str) -> str:
        """Column of the history: the KL of a private posterior from its prior."""
        return f"kl_private_{modality}"

    CROSS_VIEW = "log_likelihood_cross_view"
    KL_SHARED = "kl_shared"
    LABEL_LOG_LIKELIHOOD = "log_likelihood_labels"
    LABEL_ACCURACY = "accuracy_labels"


def _without_dots(name: str) -> str:
    return name.replace("%", "%25").replace(".", "%2E")


def _without_separators(name: str) -> str:
    """A name within a column of the history, in which + and -> stand between names."""
    return name.replace("%", "%25").replace("+", "%2B").replace("->", "%2D>")
