"""What kind of input a sample is, and samples of texts and rows as models take them."""
