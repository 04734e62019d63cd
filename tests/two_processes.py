"""What `test_processes.py` runs in two processes: trainings, and what each process has of them.

Run as ``python two_processes.py FOLDER``, it starts itself once more, as Lightning has it.
"""

import os
import pickle
import sys
import time
from pathlib import Path

import scvi
from lightning.pytorch.callbacks import Callback

import scvenn
from scvenn.network import vae
from scvenn.network.gaussians import Sampled, kl_to_standard_normal

N_TRAIN = 107  # of 119 cells; two processes read 54 and 53 of them
WHOLE = {"max_epochs": 4, "early_stopping": False, "enable_progress_bar": False}
# with a smaller eps, Adam makes whole steps of what is 0 but for rounding
WHOLE |= {"plan_kwargs": {"eps": 1e-2, "lr": 1e-2}}
REFUSED = {"diverged": {"plan_kwargs": {"lr": 1e30}}, "one validation cell": {"train_size": 0.99}}
MODELS = ("MVAE", "MMVAE", "MoPoEVAE", "MMVAEpp")


def data():
    """Three modalities, one of them normal, each missing in a part of the cells."""
    return scvenn.datasets.simulate_counts(
        119,
        modalities={"rna": "nb", "meth": "normal", "peaks": "bernoulli"},
        n_features=20,
        n_shared_features=10,
        n_types=3,
        missing=0.3,
        n_batches=2,
        seed=0,
    )


def without_noise():
    """Latents are their means: one process draws other random numbers than two."""
    vae.sample_each = lambda *posteriors: [
        Sampled(q, q.loc, kl_to_standard_normal(q)) for q in posteriors
    ]


def trained(name, *, seed=None, n_hidden=8, **kwargs):
    """What a model is after a training: weights, history, split, estimates, embedding."""
    mdata = data()
    if seed is not None:
        scvi.settings.seed = seed
    model_class = getattr(scvenn, name)
    model_class.setup_mudata(mdata, batch_key="batch")
    model = model_class(mdata, n_hidden=n_hidden, dropout_rate=0.0)
    model.train(**kwargs)
    return model, {
        "weights": {key: value.numpy() for key, value in model.module.state_dict().items()},
        "history": {key: table.to_numpy().ravel() for key, table in model.history.items()},
        "split": [model.train_indices, model.validation_indices, model.test_indices],
        "epochs": (len(model.history["train_loss"]), model.best_epoch_),
        "screening": {m: found._asdict() for m, found in (model.screening_ or {}).items()},
        "axes": (model.n_shared_effective_, model.n_private_effective_, model.shared_agreement_),
        "shared": mdata.obsm["X_shared"],
    }


class Ready(Callback):
    """In the third epoch, write down the number of the process, and go slowly from then on."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            Path(f"ready-{trainer.global_rank}").write_text(str(os.getpid()))
        if trainer.current_epoch >= 2:
            time.sleep(0.05)


def main(folder):
    rank = int(os.environ.get("LOCAL_RANK", 0))
    two = {"devices": 2, "accelerator": "cpu"}
    if folder == "until-a-signal":
        trained("MMVAE", **two, max_epochs=10_000, early_stopping=False, callbacks=[Ready()])
    found = {}
    for name in MODELS:  # the processes have no seed in common
        _, found[name] = trained(
            name,
            **two,
            max_epochs=15 if name == MODELS[-1] else 2,
            batch_size=16,
            early_stopping_patience=1,
            plan_kwargs={"lr": 0.05},
            enable_progress_bar=False,
        )
    _, found["with noise"] = trained(
        "MMVAEpp", **two, seed=0, batch_size=54, strategy="ddp", **WHOLE
    )
    with_checkpoint = {
        **two,
        **WHOLE,
        "seed": 0,
        "batch_size": 54,
        "strategy": "ddp_find_unused_parameters_true",
        "checkpoint": "checkpoint",
    }
    drawn, _ = vae.sample_each, without_noise()
    model, found["without noise"] = trained("MMVAEpp", **with_checkpoint)
    model.save("model", save_anndata=True)
    model.write_predictions("predicted.h5ad", "rna", "meth")
    _, found["gone on"] = trained("MMVAEpp", **with_checkpoint)
    vae.sample_each = drawn
    for refused, kwargs in REFUSED.items():
        try:
            trained("MMVAE", **two, max_epochs=3, **kwargs)
        except ValueError as error:
            found[refused] = str(error)
    Path(f"found-{rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
