"""Writing nnU-Net data sets: images and labels whole or not at all, the manifest, and what a second run needs."""
