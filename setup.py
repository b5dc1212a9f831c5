"""Installs `bdfm_nnunet`; the three root folders become its subpackages."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE_DIR = {
    "bdfm_nnunet": "bdfm_nnunet",
    "bdfm_nnunet.trainers": "trainers",
    "bdfm_nnunet.plans": "plans",
    "bdfm_nnunet.dataset_conversion": "dataset_conversion",
}
PACKAGES = [
    name
    for package, folder in PACKAGE_DIR.items()
    for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
]
# torch and torchvision carry no upper bound, so that a lab can bring the build that fits its drivers;
# constraints.txt names the versions we test with.
REQUIREMENTS = [
    "torch>=2.6,!=2.9.*",
    "torchvision",
    "nnunetv2>=2.8.1,<2.9",
    "acvl-utils",
    "batchgenerators",
    "batchgeneratorsv2",
    "blosc2",
    "connected-components-3d",
    "filelock>=4.1",
    "isal",
    "matplotlib",
    "nibabel",
    "nilearn",
    "numpy",
    "pillow",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "setuptools; python_version >= '3.12'",
    "SimpleITK",
    "tifffile",
    "tomli; python_version < '3.11'",
    "tqdm",
]
CLUSTER = ["distributed"]  # bdfm convert --scheduler
TABLES = ["openpyxl"]  # .xlsx tables inside downloads
DICOM = ["pydicom>=3", "highdicom>=0.27"]  # bdfm convert dicom, bdfm predict --dicom-seg
LOGGERS = {"tensorboard": ["tensorboard"], "wandb": ["wandb"], "mlflow": ["mlflow"]}  # training.loggers
REPORT = ["ipyniivue>=2.4,<3"]  # NiiVue, the viewer in the pages of `bdfm report`
MAMBA = {"mamba": ["mamba-ssm"]}  # on CUDA; plain PyTorch does without
DOCUMENTATION = ["mkdocstrings[python]", "zensical"]  # make docs
BENCHMARKS = ["monai"]  # SwinUNETR, to compare with
BROWSER = ["selenium"]  # the slow tests of the pages, where Chromium and its driver are installed
DEVELOPMENT = [
    "build",
    "mypy",
    "pybids",
    "pytest",
    "pytest-xdist",
    "ruff",
    "setuptools>=77",
    *BROWSER,
    *CLUSTER,
    *DICOM,
    *REPORT,
    *TABLES,
]

readme = Path(__file__).parent / "README.md"

setup(
    name="bdfm-nnunet",
    version="0.1.0",
    description="Self-supervised pre-training and fine-tuning for brain MRI, native to nnU-Net v2",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=PACKAGES,
    package_dir=PACKAGE_DIR,
    package_data={"bdfm_nnunet": ["py.typed", "weight_rules.json"], "bdfm_nnunet.reports": ["*.css", "*.js"]},
    install_requires=REQUIREMENTS,
    extras_require={
        "cluster": CLUSTER,
        "tables": TABLES,
        "dicom": DICOM,
        "report": REPORT,
        "bench": BENCHMARKS,
        "docs": DOCUMENTATION,
        "dev": DEVELOPMENT,
        **MAMBA,
        **LOGGERS,
    },
    entry_points={"console_scripts": ["bdfm=bdfm_nnunet.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
