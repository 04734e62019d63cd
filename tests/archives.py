"""Models as a release saved them, which every later version must read: ``tests/data/archives``.

``python -m tests.archives`` writes the archive of the installed version, once for each release. A
folder holds the data of all its models, and for each model its files and what it read out of the
data: ``test_archives.py`` compares this with what today's version reads out.
"""

import sys
from pathlib import Path

import mudata
import numpy as np
import scvi

import scvenn

ARCHIVES = Path(__file__).parent / "data" / "archives"

_SIZES = {"n_shared": 3, "n_private": 2, "n_hidden": 8}
_RNA_LEADS = scvenn.Objective(
    terms=(
        scvenn.Term(encode=("rna",), decode=("rna", "meth", "peaks")),
        scvenn.Term(encode=("meth", "peaks"), decode=("meth", "peaks"), detach_shared=("meth",)),
    )
)

# class and arguments of each model; all classes, with and without screening
MODELS = {
    "MVAE": ("MVAE", {}),
    "MMVAE": ("MMVAE", {"absent_private": "learned"}),
    "MoPoEVAE": ("MoPoEVAE", {"n_layers": 2, "encode_covariates": True}),
    "MMVAEpp": ("MMVAEpp", {}),
    "MMVAEpp_unscreened": ("MMVAEpp", {"screen": False, "decoder": "linear"}),
    "MMVAE_screened": ("MMVAE", {"screen": True, "dispersion": "feature-batch"}),
    "own_objective": ("SharedPrivateModel", {"objective": _RNA_LEADS}),
}


def data():
    """Three modalities, of which cells and entries are missing, with batches and labels."""
    mdata = scvenn.datasets.simulate_counts(
        120,
        modalities={"rna": "nb", "meth": "normal", "peaks": "bernoulli"},
        n_features=12,
        n_shared_features=6,
        n_types=3,
        missing=0.2,
        n_batches=2,
    )
    mdata["meth"].X[::7, 3] = np.nan
    mdata.obs["depth"] = np.linspace(0, 1, mdata.n_obs)
    return mdata


def readouts(model):
    """Numbers that a later version must give as well, by name."""
    arrays = {"shared": model.get_shared_representation()}
    for m in model.modalities:
        arrays[f"private_{m}"] = model.get_private_representation(m)
        arrays[f"shared_from_{m}"] = model.get_shared_representation(from_modalities=m)
        arrays[f"labels_from_{m}"] = model.predict_labels(from_modalities=m).to_numpy()
        for source in model.modalities:
            arrays[f"{source}_to_{m}"] = model.predict(source, m, return_numpy=True)
    arrays["weights"] = np.array(list(model.expert_weights.values()))
    if model.screening_ is not None:
        scores = model.get_shared_scores()
        for column in ("score", "shared", "related"):
            arrays[f"screening_{column}"] = scores[column].to_numpy()
    return arrays


def write(folder):
    """Train and save the models of an archive."""
    folder.mkdir(parents=True)
    data().write(folder / "data.h5mu")
    for name, (class_name, arguments) in MODELS.items():
        scvi.settings.seed = 0
        mdata = mudata.read_h5mu(folder / "data.h5mu")
        model_class = getattr(scvenn, class_name)
        model_class.setup_mudata(
            mdata,
            labels_key="cell_type",
            batch_key="batch",
            continuous_covariate_keys=["depth"],
        )
        model = model_class(mdata, **_SIZES, **arguments)
        model.train(6, enable_progress_bar=False)
        model.save(folder / name)
        np.savez_compressed(folder / f"{name}.npz", **readouts(model))


if __name__ == "__main__":
    (version,) = sys.argv[1:] or [scvenn.__version__]
    write(ARCHIVES / version)
