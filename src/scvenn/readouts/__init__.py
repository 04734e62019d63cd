"""What a trained model gives: functions over its networks and some cells, and thin methods.

In reading order: ``embeddings``, ``predictions``, ``sampling``, ``writing`` (of cells);
``shared_features``, ``expert_weights``, ``axes`` and ``batch_correction`` (before and after
training); ``evaluation``, ``interpretation``, ``enrichment``, ``differential`` (of latents and
features); ``page`` and ``report`` (all on a page); ``model_state`` (what a model holds);
``cell_methods``, ``feature_methods`` and ``latent_methods`` (the methods of the model, which check
data once and call these functions).
"""

from scvenn.readouts.axes import agreement, learn_axes
from scvenn.readouts.batch_correction import (
    extend_batch_correction,
    learn_batch_correction,
)
from scvenn.readouts.cell_methods import CellMethods
from scvenn.readouts.expert_weights import weigh_experts
from scvenn.readouts.latent_methods import LatentMethods
from scvenn.readouts.model_state import ModelState
from scvenn.readouts.shared_features import (
    groups_of,
    learn_weak_effects,
    scores_within,
    screen_features,
    table_of_scores,
)

__all__ = [
    "CellMethods",
    "LatentMethods",
    "ModelState",
    "agreement",
    "extend_batch_correction",
    "groups_of",
    "learn_axes",
    "learn_batch_correction",
    "learn_weak_effects",
    "scores_within",
    "screen_features",
    "table_of_scores",
    "weigh_experts",
]
