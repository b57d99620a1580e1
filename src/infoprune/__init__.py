"""infoprune: smaller convolutional networks, filters chosen by what their feature maps know."""
