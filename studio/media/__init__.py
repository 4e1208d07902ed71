"""Reading and writing media, with the request that made them inside the file."""
