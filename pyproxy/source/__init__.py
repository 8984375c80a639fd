"""Where the objects come from: the API server, or files."""
