"""The operations of one forward pass, recorded and classified by what they do."""
