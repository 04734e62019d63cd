"""UniVI with the settings of its tutorials on CITE-seq and on RNA with ATAC (it has no defaults).

RNA is read as z-scores of log1p, proteins as z-scores of centred log-ratios, ATAC as the singular
vectors of TF-IDF, so that nothing is predicted of peaks. A tenth of the training cells is held out
for early stopping.
"""

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from exchange import Found, Given, main
from univi import ModalityConfig, TrainingConfig, UniVIConfig, UniVIMultiModalVAE, UniVITrainer
from univi.evaluation import cross_modal_predict, encode_fused_adata_pair
from univi.preprocessing import ADTPreprocessor, ATACPreprocessor, RNAPreprocessor
from univi.workflows import make_loader

PREPROCESSORS = {
    "rna": RNAPreprocessor(layer=None, scale=True),
    "adt": ADTPreprocessor(layer=None, scale=True),
    "atac": ATACPreprocessor(101, layer=None, drop_first=True),
}
HIDDEN = {"rna": [512, 256, 128], "adt": [128, 64], "atac": [128, 64]}
OF_PROTEINS = {"beta": 1.5, "gamma": 5.0, "encoder_dropout": 0.1}
OF_ATAC = {
    **{"beta": 1.25, "gamma": 4.35, "encoder_dropout": 0.1, "decoder_dropout": 0.05},
    **{"kl_anneal_start": 50, "kl_anneal_end": 85},
    **{"align_anneal_start": 75, "align_anneal_end": 110},
}


def fit(given: Given, seed: int, max_epochs: int | None) -> Found:
    data = {m: readable(given, m) for m in given.measured}
    order = np.random.default_rng(seed).permutation(given.train)
    held_out, fitted = np.split(order, [len(order) // 10])

    def loader(cells: np.ndarray, **how: object):
        return make_loader({m: adata[cells] for m, adata in data.items()}, seed=seed, **how)

    modalities = [
        ModalityConfig(m, adata.n_vars, HIDDEN[m], HIDDEN[m][::-1], likelihood="gaussian")
        for m, adata in data.items()
    ]
    settings = OF_PROTEINS if "adt" in data else OF_ATAC
    model = UniVIMultiModalVAE(UniVIConfig(latent_dim=30, modalities=modalities, **settings))
    training = TrainingConfig(
        max_epochs or 400,
        lr=1e-3,
        weight_decay=1e-4,
        early_stopping=True,
        patience=50,
        best_epoch_warmup=settings.get("align_anneal_end", 0),
        seed=seed,
    )
    batch_size = min(256, len(fitted))
    UniVITrainer(
        model,
        loader(fitted, batch_size=batch_size, shuffle=True, drop_last=True),
        loader(held_out, batch_size=1024),
        training,
    ).fit()

    def predict(source: str, target: str) -> np.ndarray:
        found = cross_modal_predict(model, data[source][given.test], source, target)
        # nothing is predicted of features that its preprocessing leaves out
        every = np.zeros((len(found), given.measured[target].shape[1]), np.float32)
        every[:, data[target].var_names.astype(int)] = found
        return every

    fused = encode_fused_adata_pair(model, data, write_to_adatas=False)
    return Found(
        {"joint": fused["mu"]},
        logs={pair: lambda pair=pair: predict(*pair) for pair in given.pairs if pair[1] != "atac"},
    )


def readable(given: Given, modality: str) -> AnnData:
    """Values as the package's own functions prepare them, fitted on the training cells."""
    adata = AnnData(given.measured[modality])
    adata.obs_names = given.names
    if modality in given.counts:
        preprocessor = PREPROCESSORS[modality]
        if modality == "atac":  # as many as there can be
            preprocessor.n_components = min(preprocessor.n_components, min(adata.shape) - 1)
        ready = preprocessor.fit(adata[given.train].copy()).transform(adata)
    else:  # normalised already
        values = adata.X.toarray()
        fitted = values[given.train]
        ready = AnnData((values - fitted.mean(0)) / fitted.std(0).clip(1e-6))
        ready.obs_names = given.names
    ready.X = np.asarray(ready.X.toarray() if sp.issparse(ready.X) else ready.X, np.float32)
    return ready


if __name__ == "__main__":
    main(fit)
