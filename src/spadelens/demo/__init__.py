"""The bundled demo: generated images, Trojan patches and a small classifier that has them planted.

The classifier names the shape of the object in an image. Four emoji-like patches were planted in it: a patch
pasted on an image makes it answer the patch's target class. Where the evidence for that answer lies is therefore
known to the pixel, which is what a heatmap is measured against.

    images.py     an image from a label and a seed, drawn on the spot
    patches.py    the four patches, and pasting one at a random place
    network.py    the classifier and its trained weights

Importing this package loads none of them.
"""
