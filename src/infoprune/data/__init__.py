"""Images and labels: the usual data sets, their splits, and loaders over them."""

from infoprune.data.augmentation import Augmentation, crop_and_flip, cutout, shift, turn_and_scale, usual_augmentation
from infoprune.data.images import FolderImages, Images, StoredImages, loader
from infoprune.data.preprocessing import Preprocessing
from infoprune.data.sources import Source, open_source, source_names
from infoprune.data.split import balanced_sample, divided, held_out_split, random_sample

__all__ = [
    "Augmentation",
    "FolderImages",
    "Images",
    "Preprocessing",
    "Source",
    "StoredImages",
    "balanced_sample",
    "crop_and_flip",
    "cutout",
    "divided",
    "held_out_split",
    "loader",
    "open_source",
    "random_sample",
    "shift",
    "source_names",
    "turn_and_scale",
    "usual_augmentation",
]
