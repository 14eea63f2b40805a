"""The networks of Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), to compute with checkpoints people have.

    text         token ids to the context of the cross-attention: CLIP's text encoder
    unet         a noisy latent image, its timestep and a context to the predicted noise (or velocity)
    controlnet   an image such as edges to what it adds to the U-Net's skip connections
    autoencoder  images to latent images and back
    weights      tensors of a checkpoint to parameters, and back

Each network is configured by a frozen dataclass, read from the ``config.json`` of a checkpoint in the layout of the diffusers
library. Submodules bear the names of that layout, dots included, so a parameter's path joined by dots is the name of its tensor.
Parameters are float32; ``dtype`` is the precision of convolutions and matrix products, float32 or bfloat16. Statistics of
normalisation, attention scores and their softmax are float32 always. Images and latent images have channels last.
"""
