"""Papers to cite for weights that our trainers write, in the form of nnssl: type, name and references."""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

_REFERENCES = MappingProxyType(
    {
        "nnunet": "Isensee, F., Jaeger, P. F., Kohl, S. A. A., Petersen, J., & Maier-Hein, K. H. (2021). nnU-Net: a "
        "self-configuring method for deep learning-based biomedical image segmentation. Nature Methods, 18(2), "
        "203-211. https://doi.org/10.1038/s41592-020-01008-z",
        "resenc": "Isensee, F., Wald, T., Ulrich, C., Baumgartner, M., Roy, S., Maier-Hein, K., & Jaeger, P. F. "
        "(2024). nnU-Net revisited: A call for rigorous validation in 3D medical image segmentation. MICCAI. "
        "https://arxiv.org/abs/2404.09556",
        "swin": "Liu, Z., Lin, Y., Cao, Y., Hu, H., Wei, Y., Zhang, Z., Lin, S., & Guo, B. (2021). Swin Transformer: "
        "Hierarchical vision transformer using shifted windows. ICCV. https://arxiv.org/abs/2103.14030",
        "resnet": "He, K., Zhang, X., Ren, S., & Sun, J. (2016). Deep residual learning for image recognition. CVPR. "
        "https://arxiv.org/abs/1512.03385",
        "primus": "Wald, T., et al. (2025). Primus: Enforcing attention usage for 3D medical image segmentation. "
        "https://arxiv.org/abs/2503.01835",
        "simmim": "Xie, Z., Zhang, Z., Cao, Y., Lin, Y., Bao, J., Yao, Z., Dai, Q., & Hu, H. (2022). SimMIM: A simple "
        "framework for masked image modeling. CVPR. https://arxiv.org/abs/2111.09886",
        "bdfm": "BDFM: foundation model for segmentation and classification tasks on brain disease. "
        "https://github.com/zzzjjj98/BDFM",
        "focal": "Jiang, L., Dai, B., Wu, W., & Loy, C. C. (2021). Focal frequency loss for image reconstruction and "
        "synthesis. ICCV. https://arxiv.org/abs/2012.12821",
        "frepa": "Chu, Y., Zhang, Y., Han, Z., Yang, C., Zhou, L., Luo, G., Huang, C., & Gao, X. (2025). Improving "
        "representation of high-frequency components for medical visual foundation models. IEEE Transactions on "
        "Medical Imaging. https://doi.org/10.1109/TMI.2025.3559402",
        "simclr": "Chen, T., Kornblith, S., Norouzi, M., & Hinton, G. (2020). A simple framework for contrastive "
        "learning of visual representations. ICML. https://arxiv.org/abs/2002.05709",
        "neuro_simclr": "Kaczmarek, E., Szeto, J., Nichyporuk, B., & Arbel, T. (2025). Building a general SimCLR "
        "self-supervised foundation model across neurological diseases to advance 3D brain MRI diagnoses. "
        "https://arxiv.org/abs/2509.10620",
        "neurostorm": "Wang, C., et al. (2025). Towards a general-purpose foundation model for fMRI analysis. "
        "https://arxiv.org/abs/2506.11167",
    }
)
_METHODS = MappingProxyType(
    {
        "masked": ("BDFM", ("simmim", "bdfm", "focal")),
        "simmim": ("SimMIM", ("simmim",)),
        "frequency_corruption": ("Frepa", ("frepa",)),
        "contrastive": ("SimCLR", ("simclr", "neuro_simclr")),
        "sequence": ("NeuroSTORM", ("neurostorm",)),
    }
)
_NETWORKS = MappingProxyType(
    {
        "SwinUNet": ("swin",),
        "ResNet18UNet": ("resnet", "neuro_simclr"),
        "ResidualEncoderUNet": ("resenc",),
        "PlainConvUNet": ("nnunet",),
        "Primus": ("primus",),
        "NeuroSTORM": ("neurostorm",),
    }
)


def title_of(method: str) -> str:
    """Return the name by which a method is known.

    Example:
        >>> title_of("contrastive"), title_of("mine")
        ('SimCLR', 'mine')
    """
    return _METHODS[method][0] if method in _METHODS else method


def citations_of(methods: Iterable[str], network: str) -> list[dict[str, Any]]:
    """Return what to cite for weights.

    Args:
        methods: of the pre-training, see `settings.methods_of`; unknown ones are left out.
        network: class name of the planned network.

    Example:
        >>> [each["name"] for each in citations_of(["contrastive"], "SwinUNet")]
        ['nnU-Net', 'SwinUNet', 'SimCLR']
    """
    family = "Primus" if network.startswith("Primus") else network
    found: list[tuple[str, str, tuple[str, ...]]] = [("Framework", "nnU-Net", ("nnunet",))]
    if family in _NETWORKS:
        found.append(("Architecture", network, _NETWORKS[family]))
    found += [("Pretraining Method", *_METHODS[each]) for each in dict.fromkeys(methods) if each in _METHODS]
    return [
        {"type": kind, "name": name, "apa_citations": [_REFERENCES[key] for key in keys]} for kind, name, keys in found
    ]
