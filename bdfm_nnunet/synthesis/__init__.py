"""Made-up images from label maps: contrasts, lesions and scanners are drawn, the anatomy is that of the maps.

After SynthSeg (Billot et al. 2023, https://arxiv.org/abs/2107.09559): an image is drawn from a label map by giving each
label a mean and a spread. Made-up images teach a network shapes whatever the contrast; they are no evidence about
clinical data.
"""
