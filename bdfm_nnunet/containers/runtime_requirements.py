"""The packages that a container needs: those that prediction loads, at the versions of this environment."""

from importlib.metadata import PackageNotFoundError, version

TORCH = ("torch",)
"""Installed with all that they need; libraries for graphics cards come with them."""
LOADED = (
    "acvl-utils", "batchgenerators", "blosc2", "connected-components-3d", "dynamic-network-architectures", "einops",
    "filelock", "imagecodecs", "imageio", "isal", "lazy-loader", "msgpack", "ndindex", "nibabel", "nnunetv2", "numexpr",
    "numpy", "packaging", "pandas", "pillow", "python-dateutil", "pytz", "tzdata", "six", "safetensors", "scikit-image",
    "scipy", "setuptools", "SimpleITK", "threadpoolctl", "tifffile", "timm", "torchvision", "tqdm", "typing-extensions",
    "requests", "urllib3", "idna", "certifi", "charset-normalizer", "httpx", "httpcore", "h11", "anyio", "sniffio",
    "rich", "pygments", "markdown-it-py", "mdurl", "click", "py-cpuinfo", "platformdirs", "networkx", "pyyaml",
)  # fmt: skip
"""Installed alone: nnU-Net's own list would bring what only trainings, figures and downloads need."""


def pinned() -> dict[str, list[str]]:
    """Return the lines of the two files of requirements; packages that are not installed here are left out."""
    return {"requirements-torch.txt": _lines(TORCH), "requirements.txt": _lines(LOADED)}


def _lines(names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found
