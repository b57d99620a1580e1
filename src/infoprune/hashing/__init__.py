"""Convolutions that merge alike input channels while they run, for each image and place (HASTE)."""

from infoprune.hashing.convolution import HashedConv2d, codes, hyperplanes
from infoprune.hashing.network import Merged, hash_convolutions, merged_channels

__all__ = ["HashedConv2d", "Merged", "codes", "hash_convolutions", "hyperplanes", "merged_channels"]
