"""How long the way of one minibatch is: how often a training step passes from file to file.

``python benchmarks/step.py`` counts, over the calls and returns of one training step (loss and
gradient of one minibatch, without the loader and the optimiser), how often the running file of the
package changes, and between which. A short way is one that a reader can follow.
"""

import sys
from collections import Counter
from pathlib import Path

import scvi
import torch

import scvenn

SOURCE = str(Path(scvenn.__file__).parent)


def changes_of_file(run):
    """Pairs of files that follow each other while a function runs, and how often."""
    found: Counter = Counter()
    current = None

    def follow(frame, event, _):
        nonlocal current
        file = frame.f_code.co_filename
        if event not in ("call", "return") or not file.startswith(SOURCE):
            return
        if event == "return":
            # the file that is returned to
            while (frame := frame.f_back) and not frame.f_code.co_filename.startswith(SOURCE):
                pass
            file = frame.f_code.co_filename if frame else file
        if current is not None and file != current:
            found[current.removeprefix(SOURCE), file.removeprefix(SOURCE)] += 1
        current = file

    sys.setprofile(follow)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def main():
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(400, n_features=50)
    model = scvenn.MMVAEpp(mdata)
    model.train(1, enable_progress_bar=False)
    loader = model._make_data_loader(adata=mdata, batch_size=128)
    tensors = next(iter(loader))
    plan = model._training_plan_cls(model.module)
    plan.train()

    def step():
        plan.training_step(tensors, 0).backward()

    with torch.enable_grad():
        found = changes_of_file(step)
    print(f"file changes in one training step: {sum(found.values())}")
    for (old, new), times in found.most_common(12):
        print(f"{times:5d}  {old[1:]} -> {new[1:]}")


if __name__ == "__main__":
    main()
