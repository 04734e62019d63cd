"""MIDAS on raw counts; proteins or RNA are translated from the other modality alone."""

import tempfile

import lightning
import numpy as np
from anndata import AnnData
from exchange import Found, Given, main
from mudata import MuData
from scmidas import MIDAS
from scmidas.config import load_config

# how cells are loaded, which changes no result
LOADING = {"num_workers": 0, "persistent_workers": False, "pin_memory": False}
QUIET = {
    **{"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    **{"logger": False, "enable_checkpointing": False},
}


def fit(given: Given, seed: int, max_epochs: int | None) -> Found:
    lightning.seed_everything(seed)
    configs = load_config() | LOADING
    for name in ("dims_before_enc_atac", "dims_after_dec_atac"):
        del configs[name]  # they are for peaks of known chromosomes

    def readable(rows: object) -> MuData:
        modalities = {m: AnnData(x[rows]) for m, x in given.measured.items()}
        for m, adata in modalities.items():
            adata.obs_names = np.array(given.names)[rows]
            adata.var_names = m + adata.var_names
            adata.obs["batch"] = given.batch[rows]
        mdata = MuData(modalities)
        MIDAS.setup_mudata(mdata)
        return mdata

    with tempfile.TemporaryDirectory() as folder:
        model = MIDAS(readable(given.train), configs=configs, save_model_path=folder)
        model.train(max_epochs=max_epochs, **QUIET)
        model.save(f"{folder}/model")
        model = MIDAS.load(f"{folder}/model", readable(slice(None)))

    def predict(source: str, target: str) -> np.ndarray:
        found = model.predict(translate=True, verbose=False)
        values = np.empty(given.measured[target].shape, np.float32)
        for name in np.unique(given.batch):
            values[given.batch == name] = found[name]["x_trans"][f"{source}_to_{target}"]
        return values[given.test]

    return Found(
        {"joint": model.get_latent_representation()},
        counts={pair: lambda pair=pair: predict(*pair) for pair in given.pairs},
    )


if __name__ == "__main__":
    main(fit)
