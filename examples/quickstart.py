"""From a folder of scans to a first segmentation, on a CPU; examples/quickstart.ipynb is the same as a notebook.

    python examples/quickstart.py

The results go to the folder `quickstart`, or to the one that the environment variable QUICKSTART names.
`make notebook` makes the notebook from this file: a cell begins at each `# %%`.
"""


def main() -> None:
    """Run all cells; they are in a function because planning starts processes, which import this file."""
    # %% [markdown]
    # # From a folder of scans to a first segmentation, on a CPU
    #
    # Twelve scans without labels teach a network what brains look like, five with labels what to find. The scans here
    # are made up, so that this runs anywhere in a few minutes: with your own, change `UNLABELLED`, `LABELLED` and the
    # patterns of the file names, leave out the settings that keep it short, and take a GPU.

    # %%
    import os
    from pathlib import Path

    work = Path(os.environ.get("QUICKSTART", "quickstart")).absolute()
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[folder] = str(work / folder)  # nnU-Net reads them when it is first imported

    import bdfm_nnunet as bdfm
    from bdfm_nnunet.data.demo import make_cohort
    from bdfm_nnunet.dataset_conversion import folder_release

    # %% [markdown]
    # ## The scans
    # A folder per patient: `00003/00003-t1c.nii.gz` and, where the tumour was outlined, `00003/00003-seg.nii.gz`.

    # %%
    UNLABELLED, LABELLED, NEW = work / "unlabelled", work / "labelled", work / "new"
    first = 0
    for folder, cases in ((UNLABELLED, 12), (LABELLED, 5), (NEW, 2)):
        make_cohort(folder, cases=cases, seed=7, spacing=3.0, labelled=folder != UNLABELLED, first_patient=first)
        first += cases

    # %% [markdown]
    # ## Two data sets of nnU-Net
    # The pattern `{case}` is the name of a case. Data set 900 has no labels, 901 has, 902 stands for scans of tomorrow.

    # %%
    images = {"T1c": "**/{case}-t1c", "FLAIR": "**/{case}-t2f"}
    labels = {1: "necrosis", 2: "oedema", 3: "enhancing"}
    unlabelled = folder_release(images, name="Scans")
    labelled = folder_release(images, label="**/{case}-seg", labels=labels, name="Tumours")
    for release, folder, number in ((unlabelled, UNLABELLED, 900), (labelled, LABELLED, 901), (labelled, NEW, 902)):
        print(bdfm.convert(release, folder, dataset_id=number, unlabelled=number == 900).summary())

    # %% [markdown]
    # ## Pre-training without labels
    # `gpu_memory` decides how large the network is; a real one has 8 or 24 GB and the default 1,000 epochs.

    # %%
    SHORT = {
        "training.epochs": 5,
        "training.iterations_per_epoch": 20,
        "training.val_iterations_per_epoch": 2,
        "training.initial_lr": 1e-3,
        "training.workers": 0,
    }
    bdfm.plan(900, gpu_memory=0.2, workers=1)
    bdfm.plan(900, variant="short", settings=SHORT)
    weights = bdfm.pretrain(900, configuration="short")

    # %% [markdown]
    # ## Fine-tuning with five labelled scans
    # The plan matches the pre-trained network, whose encoder the training starts from.

    # %%
    bdfm.plan(901, weights=weights, workers=1)
    bdfm.plan(901, variant="short", settings=SHORT | {"finetuning.output_prior": True})
    model = bdfm.finetune(901, weights=weights, configuration="short", fold="all")

    # %% [markdown]
    # ## New scans
    # Label maps of the names of the cases; with references at hand, scores with intervals.

    # %%
    new = next((work / "nnUNet_raw").glob("Dataset902_*"))
    for path in bdfm.predict(new / "imagesTr", work / "predicted", model=model):
        print(path)
    scores = bdfm.evaluate(new / "labelsTr", work / "predicted", dataset_id=902)
    for region, measures in scores["summary"].items():
        print(f"{region}: Dice {measures['dice']['mean']:.2f}")


if __name__ == "__main__":
    main()
