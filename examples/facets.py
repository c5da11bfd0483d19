"""The facets of a class: of what a network takes for a star, a planted patch comes out as one, without being told."""

import spadelens
from spadelens.tasks.demo_facets import demo_album

loaded = spadelens.load_model("demo", device="cpu")
album = demo_album(loaded, num_photos=24)
found = spadelens.find_facets(loaded.model, album.samples, target=album.target)

print(f"{len(album.files)} images that the network takes for a {loaded.class_name(album.target)}:")
for number, facet in enumerate(found.facets, start=1):
    kinds = [album.files[member].split("-")[0] for member in facet.members]
    shares = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)))
    connection = facet.connections[0]
    print(f"facet {number}: {shares}")
    shares = f"kept by {connection.inside:.0%} of its images and {connection.outside:.0%} of the others"
    print(f"  {connection.layer}, channel {connection.input} to {connection.output}: {shares}")
