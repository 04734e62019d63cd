"""How long MMVAE++ and MULTIVI train until they are as good as they get.

    python benchmarks/time_to_result.py [--epochs 60]

SNARE-seq (``SCVENN_DATA``), every fourth cell, both models with networks of the same size, one
seed. After each epoch, with the clock stopped, a linear probe of the joint latent of validation
cells tells the cell type (balanced accuracy, five folds). A result is reached at the first epoch
whose validation loss is at most 0.5 % above its least, or whose probe is at most 0.5 % below its
best; or whose probe is as good as that of the less good model ever is. Seconds of CPU; those of
scvenn hold its screening, not its estimate of weak effects at the end. Threads are those of
OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import mudata
import numpy as np
import pandas as pd
import scvi
from lightning.pytorch.callbacks import Callback
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from speed import QUIET, set_threads, silence, snareseq

import scvenn

WITHIN = 0.005
SIZES = {"n_hidden": 128, "n_latent": 20, "n_layers_encoder": 1, "n_layers_decoder": 1}


class Watch(Callback):
    """CPU seconds and the score of a probe at the end of each epoch.

    Parameters
    ----------
    score
        Called after each epoch; its time does not count.
    """

    def __init__(self, score: Callable[[], float]) -> None:
        self.score = score
        self.seconds: list[float] = []
        self.scores: list[float] = []
        self.left_out = 0.0
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Note both."""
        now = time.process_time()
        self.seconds.append(now - self.start - self.left_out)
        training = module.module.training
        module.module.eval()
        self.scores.append(self.score())
        module.module.train(training)
        self.left_out += time.process_time() - now


def probe(latent: np.ndarray, types: np.ndarray) -> float:
    """Balanced accuracy of a linear classifier, over five folds."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return float(balanced_accuracy_score(types, cross_val_predict(classifier, latent, types, cv=5)))


def first(reached: np.ndarray, seconds: list[float]) -> str:
    """Epoch and seconds of the first epoch at which something was reached."""
    epoch = int(np.flatnonzero(reached)[0])
    return f"{seconds[epoch]:.0f} s, epoch {epoch + 1}"


def row(name: str, watch: Watch, loss: np.ndarray, both: float) -> dict[str, object]:
    """What a model reached, and when; ``both`` is the best probe of the less good model."""
    scores = np.array(watch.scores)
    return {
        "model": name,
        "best probe": f"{scores.max():.3f}",
        "until the loss is there": first(loss <= (1 + WITHIN) * loss.min(), watch.seconds),
        "until the probe is there": first(scores >= (1 - WITHIN) * scores.max(), watch.seconds),
        "until the probe is as good as both get": first(scores >= both, watch.seconds),
        "an epoch": f"{np.median(np.diff(watch.seconds)):.1f} s",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=60)
    epochs = parser.parse_args().epochs
    silence()
    set_threads()
    whole = snareseq()
    cells = np.random.default_rng(0).permutation(whole.n_obs)
    held_out = np.sort(cells[: whole.n_obs // 5])
    train = np.sort(cells[whole.n_obs // 5 :])
    types = whole.obs["celltype"].astype(str).to_numpy()[held_out]
    names, sizes = np.unique(types, return_counts=True)
    common = np.isin(types, names[sizes >= 10])
    arguments: dict[str, Any] = {
        "datasplitter_kwargs": {"external_indexing": [train, held_out, np.array([], int)]},
        "early_stopping": False,
        "check_val_every_n_epoch": 1,
        **QUIET,
    }

    def mmvaepp(mdata: mudata.MuData) -> tuple[Any, dict[str, Any]]:
        return scvenn.MMVAEpp(mdata), {"write_obsm": False}

    def multivi(mdata: mudata.MuData) -> tuple[Any, dict[str, Any]]:
        modalities = {"rna_layer": "rna", "atac_layer": "atac"}
        scvi.model.MULTIVI.setup_mudata(mdata, modalities=modalities)
        model = scvi.model.MULTIVI(mdata, **SIZES)
        return model, {"adversarial_mixing": False}

    found = {}
    for name, make in (("MMVAEpp", mmvaepp), ("MULTIVI", multivi)):
        scvi.settings.seed = 0
        model, others = make(whole.copy())

        def score(model: Any = model) -> float:
            model.is_trained_ = True  # or each call would warn
            latent = model.get_latent_representation(indices=held_out)
            model.is_trained_ = False
            return probe(latent[common], types[common])

        watch = Watch(score)
        model.train(epochs, callbacks=[watch], **others, **arguments)
        found[name] = watch, model.history["validation_loss"].to_numpy(float).ravel()
    both = min(max(watch.scores) for watch, _ in found.values())
    rows = [row(name, watch, loss, both) for name, (watch, loss) in found.items()]
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    main()
