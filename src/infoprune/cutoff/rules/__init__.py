"""Cut-off rules: where to cut a criterion's curve; one file per rule."""
