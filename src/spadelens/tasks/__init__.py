"""What the commands do: each task computes and returns a result, and neither prints nor writes."""
